"""Anchor linking: proposals of nearby frames that come from the same anchor are one tubelet.

Source: D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided
attention for video object detection", Image and Vision Computing, 2021. With a window of one frame
it is the proposal selection of Faster R-CNN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import batched_nms

from vodet.boxes import clip_boxes


@dataclass(frozen=True)
class ProposalLimits:
    """How many proposals are kept.

    Args:
        per_level: Best anchors of each level, before suppression.
        total: Best proposals of all levels, after it.
        nms_iou: Of two proposals of a level with a higher IoU only the better is kept.
        min_size: Proposals with a side not longer than this, in pixels, are dropped.
    """

    per_level: int
    total: int
    nms_iou: float = 0.7
    min_size: float = 0.0


@dataclass(frozen=True)
class Tubelets:
    """Linked proposals of one window, best first.

    Args:
        boxes: In pixels, ``[T, K, 4]``.
        objectness: Logits of the reference frame, ``[K]``.
    """

    boxes: Float[Tensor, "T K 4"]
    objectness: Float[Tensor, " K"]

    def __len__(self) -> int:
        return len(self.objectness)

    def __getitem__(self, rows: Int[Tensor, " k"] | slice) -> Tubelets:
        return Tubelets(self.boxes[:, rows], self.objectness[rows])

    def followed_by(self, boxes: Float[Tensor, "T G 4"]) -> Tubelets:
        """Append tubelets of annotated objects, whose objectness is certain."""
        certain = self.objectness.new_full((boxes.shape[1],), torch.inf)
        return Tubelets(torch.cat((self.boxes, boxes), 1), torch.cat((self.objectness, certain)))


def link_anchors(
    boxes: Float[Tensor, "T A 4"],
    logits: Float[Tensor, " A"],
    counts: Sequence[int],
    size: Int[Tensor, " 2"],
    reference: int,
    limits: ProposalLimits,
) -> tuple[Int[Tensor, " K"], Float[Tensor, "T K 4"]]:
    """Choose tubelets by the reference frame: its best anchors, followed through the window.

    A tubelet is dropped if its reference logit or any of its coordinates is not finite, or if one
    of its boxes, clipped to the picture, has no extent. Suppression looks at the reference frame
    alone, one level at a time.

    Args:
        boxes: Decoded box of every anchor in every frame, in pixels, level after level.
        logits: Objectness of the anchors in the reference frame.
        counts: Number of anchors of each level.
        size: ``(height, width)`` of the picture.
        reference: Position of the reference frame.
        limits: How many are kept.

    Returns:
        Which anchors are kept, best first, and their clipped boxes in each frame.
    """
    starts = [sum(counts[:level]) for level in range(len(counts))]
    best = [
        part.topk(min(limits.per_level, len(part))).indices + start
        for part, start in zip(torch.split(logits, list(counts)), starts, strict=True)
    ]
    kept = torch.cat(best)
    levels = torch.cat([torch.full_like(part, level) for level, part in enumerate(best)])
    tubelets = boxes[:, kept]
    is_good = tubelets.isfinite().flatten(2).all(dim=2).all(dim=0) & logits[kept].isfinite()
    tubelets = clip_boxes(tubelets, size)
    sides = tubelets[..., 2:] - tubelets[..., :2]
    is_good &= (sides > limits.min_size).all(dim=2).all(dim=0)
    kept, levels, tubelets = kept[is_good], levels[is_good], tubelets[:, is_good]
    chosen = batched_nms(tubelets[reference], logits[kept], levels, limits.nms_iou)[: limits.total]
    return kept[chosen], tubelets[:, chosen]
