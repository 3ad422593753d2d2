"""Augmentation of clips, with the same random parameters for all frames and their boxes."""

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
        max_ratio: Maximum side of the canvas, as a multiple of the side of the picture; at least 1.
        fill: Pixel value of the canvas around the picture.
        p: Probability of applying the transform.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]  # as above
        """Types of the constructor's arguments, which albumentations checks."""

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
        """Draw the size of the canvas and the position of the picture on it."""
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
    """Crops randomly, so that the IoU of the crop with every box is at least a random minimum.

    This is the crop of SSD (W. Liu et al., arXiv 1512.02325, section 2.2), applied to the boxes of
    all frames of a clip, as in the released settings of STF. Each side of the crop is at least
    ``min_size`` times the side of the picture, the aspect ratio is from 1/2 to 2, and the crop
    contains the centre of at least one box. If none of 50 random crops meets these conditions, or
    there is no box, the picture is not cropped.

    Args:
        min_ious: Values from which the minimum IoU is drawn.
        min_size: Minimum side of the crop, as a share of the side of the picture.
        p: Probability of applying the transform.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]  # as above
        """Types of the constructor's arguments, which albumentations checks."""

        min_ious: Sequence[float]
        min_size: float

    def __init__(
        self,
        min_ious: Sequence[float] = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        min_size: float = 0.3,
        p: float = 0.5,
    ) -> None:
        if not min_ious or not 0 < min_size <= 1:
            msg = (
                "IouCrop needs at least one value in min_ious and 0 < min_size <= 1, found "
                f"min_ious={min_ious}, min_size={min_size}."
            )
            raise ConfigError(msg)
        super().__init__(p=p)
        self.min_ious = tuple(min_ious)
        self.min_size = min_size

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw 50 crops; return the first that meets the conditions, or else the whole picture."""
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
    """Return whether each crop meets the conditions of `IouCrop`, as ``[crops]`` bool."""
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
    """Applies albumentations to a clip, with the same random parameters for all frames.

    Args:
        transforms: Transforms of albumentations or with the same interface, in order.
        min_visible: A box is dropped if less than this share of its area, or less than one square
            pixel, remains in the picture after a transform. Other boxes are clipped to the picture.

    Raises:
        ConfigError: If ``min_visible`` is below 0 or above 1.
    """

    def __init__(self, transforms: Sequence[Any] = (), min_visible: float = 0.3) -> None:
        if not 0 <= min_visible <= 1:
            msg = f"data.min_visible must be a share of the box area, 0 to 1; found {min_visible}."
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
        """Apply the transforms to the frames of a clip and their boxes.

        Args:
            frames: ``T`` frames ``[H, W, 3]`` uint8 of the same size.
            targets: The annotations of each frame.
            generator: The only source of randomness.

        Returns:
            The ``T`` transformed frames ``[H', W', 3]`` uint8 and their annotations.

        Raises:
            FrameError: If the frames differ in size.
        """
        sizes = {frame.shape for frame in frames}
        if len(sizes) > 1:
            msg = (
                f"Frames of a clip must have the same size, found {sorted(sizes)}. Resize them to "
                "one size first."
            )
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
    """Return the annotations of each frame after a transform.

    Args:
        targets: The annotations of each frame before the transform.
        boxes: The transformed boxes that remain, frame by frame.
        rows: Positions of the remaining boxes among all boxes before the transform, ascending.
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
