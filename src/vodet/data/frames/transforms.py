"""Augmentation of clips: one random draw for all frames and their boxes."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vodet.boxes import box_areas, clip_boxes
from vodet.errors import ConfigError, FrameError
from vodet.structures import Target

# Without this setting, importing albumentations asks a server for its newest version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations
from albumentations.augmentations.crops.transforms import BaseCrop
from albumentations.core.transforms_interface import BaseTransformInitSchema

MIN_BOX_AREA = 1.0  # square pixels; smaller boxes are useless for training


class Expand(albumentations.Pad):  # type: ignore[misc]  # albumentations comes without types
    """Pastes the picture at a random place on a larger canvas, so that objects become smaller.

    Args:
        max_ratio: Maximum ratio of the canvas to the picture, per side; at least 1.
        fill: Value of the canvas around the picture.
        p: Probability of applying the transform.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]  # as above
        """Types of the arguments, which albumentations checks."""

        max_ratio: float
        fill: float

    def __init__(self, max_ratio: float = 2.0, fill: float = 0, p: float = 0.5) -> None:
        if max_ratio < 1:
            msg = f"Expand needs max_ratio >= 1, found {max_ratio}."
            raise ConfigError(msg)
        super().__init__(fill=fill, p=p)
        self.max_ratio = max_ratio

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw the canvas and the place on it."""
        del data
        ratio = self.random_generator.uniform(1, self.max_ratio)
        height, width = (round(side * (ratio - 1)) for side in params["shape"][:2])
        top, left = self.random_generator.integers(0, [height + 1, width + 1]).tolist()
        return {
            "pad_top": top,
            "pad_bottom": height - top,
            "pad_left": left,
            "pad_right": width - left,
        }


class IouCrop(BaseCrop):  # type: ignore[misc]  # albumentations comes without types
    """Random crop whose IoU with every box of the clip is at least a randomly drawn minimum.

    The crop of SSD (W. Liu et al., arXiv 1512.02325, section 2.2), applied to the boxes of all
    frames, as in the released settings of STF. The sides of a crop are ``min_size`` to 1 of the
    picture's sides, with an aspect ratio from 1/2 to 2, and the crop must contain the centre of a
    box. If none of 50 random crops qualifies, or there is no box, the picture is not cropped.

    Args:
        min_ious: Minimum IoUs to draw from.
        min_size: Smallest side of the crop, as a share of the side of the picture.
        p: Probability of applying the transform.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]  # as above
        """Types of the arguments, which albumentations checks."""

        min_ious: Sequence[float]
        min_size: float

    def __init__(
        self,
        min_ious: Sequence[float] = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        min_size: float = 0.3,
        p: float = 0.5,
    ) -> None:
        if not min_ious or not 0 < min_size <= 1:
            msg = f"IouCrop needs min_ious and 0 < min_size <= 1, found {min_ious}, {min_size}."
            raise ConfigError(msg)
        super().__init__(p=p)
        self.min_ious = tuple(min_ious)
        self.min_size = min_size

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw crops and take the first that satisfies the conditions."""
        height, width = params["shape"][:2]
        scale = np.array([width, height, width, height])
        generator = self.random_generator
        min_iou = generator.choice(self.min_ious)
        sides = generator.uniform(self.min_size, 1, (50, 2)) * scale[:2]
        corners = generator.uniform(0, 1, (50, 2)) * (scale[:2] - sides)
        crops = np.concatenate([corners, corners + sides], axis=1).astype(np.int64)
        boxes = data["bboxes"][:, :4] * scale
        good = _is_good_crop(crops, boxes, float(min_iou))
        crop = crops[good.argmax()] if good.any() else [0, 0, width, height]
        return {"crop_coords": tuple(map(int, crop))}


def _is_good_crop(crops: np.ndarray, boxes: Float[np.ndarray, "n 4"], min_iou: float) -> np.ndarray:
    """Return whether each crop satisfies the conditions of `IouCrop`, ``[crops]``."""
    low = np.maximum(crops[:, None, :2], boxes[None, :, :2])
    high = np.minimum(crops[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    crop_sides = crops[:, 2:] - crops[:, :2]
    box_areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    ious = shared / (crop_sides.prod(axis=1)[:, None] + box_areas - shared)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (centers > crops[:, None, :2]) & (centers < crops[:, None, 2:])
    is_regular = crop_sides.max(axis=1) <= 2 * crop_sides.min(axis=1)
    good: np.ndarray = is_regular & (ious >= min_iou).all(axis=1) & inside.all(axis=2).any(axis=1)
    return good


class ClipTransform:
    """Applies albumentations to a clip: one random draw for all frames and their boxes.

    Args:
        transforms: Transforms of albumentations or with the same interface, in order.
        min_visible: A box is dropped if less than this share of its area remains in the picture
            after a transform, or less than one square pixel. Other boxes are clipped to the
            picture.

    Raises:
        ConfigError: If ``min_visible`` is not from 0 to 1.
    """

    def __init__(self, transforms: Sequence[Any] = (), min_visible: float = 0.3) -> None:
        if not 0 <= min_visible <= 1:
            msg = f"min_visible must be a share of the area from 0 to 1, found {min_visible}."
            raise ConfigError(msg)
        boxes = albumentations.BboxParams(
            "pascal_voc",
            label_fields=["rows"],
            min_area=MIN_BOX_AREA,
            min_visibility=min_visible,
            clip=True,
            filter_invalid_bboxes=True,
        )
        # NoOp, because albumentations rejects a list without any transform for boxes.
        steps = [albumentations.NoOp(), *transforms]
        self._compose = albumentations.Compose(steps, bbox_params=boxes) if transforms else None

    def __call__(
        self,
        frames: Sequence[np.ndarray],
        targets: Sequence[Target],
        generator: np.random.Generator,
    ) -> tuple[Sequence[np.ndarray], tuple[Target, ...]]:
        """Transform a clip.

        Args:
            frames: ``T`` frames ``[H, W, 3]`` uint8 of the same size.
            targets: One target per frame.
            generator: Random generator of the clip; the only source of randomness.

        Returns:
            ``T`` frames ``[H', W', 3]`` uint8 and their targets.

        Raises:
            FrameError: If the frames differ in size.
        """
        sizes = {frame.shape for frame in frames}
        if len(sizes) > 1:
            msg = f"Frames of a clip must have the same size, found {sorted(sizes)}."
            raise FrameError(msg)
        boxes = torch.cat([target["boxes"] for target in targets])
        if self._compose is None:
            boxes = clip_boxes(boxes, frames[0].shape[:2])
            rows = (box_areas(boxes) >= MIN_BOX_AREA).nonzero()[:, 0]
            return frames, _select(targets, boxes[rows], rows)
        # One generator for all transforms: with a seed, all would draw the same random numbers.
        self._compose.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        # One target per frame, because albumentations copies all frames of `images` in every step.
        names = ["image", *(f"image{position}" for position in range(1, len(frames)))]
        self._compose.add_targets(dict.fromkeys(names[1:], "image"))
        pictures = dict(zip(names, frames, strict=True))
        result = self._compose(**pictures, bboxes=boxes.numpy(), rows=np.arange(len(boxes)))
        boxes = torch.as_tensor(np.asarray(result["bboxes"], np.float32).reshape(-1, 4))
        rows = torch.as_tensor(np.asarray(result["rows"], np.int64))
        order = rows.argsort()
        return [result[name] for name in names], _select(targets, boxes[order], rows[order])


def _select(
    targets: Sequence[Target], boxes: Float[Tensor, "n 4"], rows: Int64[Tensor, " n"]
) -> tuple[Target, ...]:
    """Assign boxes to their frames.

    Args:
        targets: The targets before the transform.
        boxes: The remaining boxes.
        rows: Positions of the remaining boxes among the boxes of all frames, ascending.
    """
    lengths = [len(target["boxes"]) for target in targets]
    if len(rows) == sum(lengths):  # the usual case, and by far the cheapest
        pairs = zip(targets, torch.split(boxes, lengths), strict=True)
        return tuple(Target({**target, "boxes": own_boxes}) for target, own_boxes in pairs)
    frame_of_box = np.repeat(np.arange(len(targets)), lengths)
    counts = np.bincount(frame_of_box[rows.numpy()], minlength=len(targets)).tolist()
    columns = (
        boxes,
        torch.cat([target["labels"] for target in targets])[rows],
        torch.cat([target["track_ids"] for target in targets])[rows],
        torch.cat([target["iscrowd"] for target in targets])[rows],
    )
    return tuple(
        Target(boxes=own_boxes, labels=labels, track_ids=track_ids, iscrowd=iscrowd)
        for own_boxes, labels, track_ids, iscrowd in zip(
            *(torch.split(column, counts) for column in columns), strict=True
        )
    )
