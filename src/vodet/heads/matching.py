"""Matches anchors and proposals to objects, and samples boxes for training.

Source: S. Ren et al., "Faster R-CNN" (arXiv 1506.01497), section 3.1.2, with torchvision's matching
and sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.ops import box_iou

from vodet.boxes import box_areas
from vodet.structures import Target

BACKGROUND, IGNORED = -1, -2


@dataclass(frozen=True)
class Assigner:
    """Matches boxes to the objects of a frame and samples boxes for training.

    Args:
        fg_iou_thresh: Minimum IoU between a box and its matched object (inclusive).
        bg_iou_thresh: A box is background if its IoU with every object is lower. Boxes between the
            two thresholds are ignored.
        batch_size_per_image: Maximum number of boxes sampled per frame.
        positive_fraction: Maximum number of positive samples, as a share of
            ``batch_size_per_image``.
        allow_low_quality_matches: Whether the boxes with an object's highest IoU are matched to it
            even if this IoU is below ``fg_iou_thresh``.
        ignored_share: A background box is ignored if a single crowd region covers at least this
            share of it, since the content of the region is unknown.
    """

    fg_iou_thresh: float
    bg_iou_thresh: float
    batch_size_per_image: int
    positive_fraction: float
    allow_low_quality_matches: bool = False
    ignored_share: float = 0.5

    def assign(self, boxes: Float[Tensor, "n 4"], target: Target) -> Int[Tensor, " n"]:
        """Return for each box the row of its object in ``target``, or BACKGROUND or IGNORED."""
        matched = torch.full_like(boxes[:, 0], BACKGROUND, dtype=torch.int64)
        objects = (~target["iscrowd"]).nonzero()[:, 0]
        iou = box_iou(target["boxes"][objects], boxes)
        # For an object that no box overlaps, every box would have the highest IoU.
        overlapped = (iou > 0).any(dim=1)
        if overlapped.any():
            matcher = Matcher(
                self.fg_iou_thresh, self.bg_iou_thresh, self.allow_low_quality_matches
            )
            found = matcher(iou[overlapped])
            matched = torch.where(found >= 0, objects[overlapped][found.clamp(min=0)], found)
        in_crowd = covered_shares(boxes, target["boxes"][target["iscrowd"]]) >= self.ignored_share
        return matched.masked_fill(in_crowd & (matched == BACKGROUND), IGNORED)

    def draw(self, matched: Int[Tensor, " n"]) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
        """Sample boxes for training.

        Args:
            matched: The result of `assign`.

        Returns:
            A mask of the sampled positive boxes, and a mask of the sampled background boxes.
        """
        labels = torch.where(matched >= 0, 1, torch.where(matched == BACKGROUND, 0, -1))
        sampler = BalancedPositiveNegativeSampler(self.batch_size_per_image, self.positive_fraction)
        (positive,), (negative,) = sampler([labels])
        return positive.bool(), negative.bool()


def covered_shares(
    boxes: Float[Tensor, "n 4"], regions: Float[Tensor, "m 4"]
) -> Float[Tensor, " n"]:
    """Return the largest share of each box's area that one region covers; 0 without regions."""
    if not len(regions):
        return torch.zeros_like(boxes[:, 0])
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = box_areas(torch.cat((low, high), dim=2)).amax(dim=1)
    return shared / box_areas(boxes).clamp(min=1e-9)
