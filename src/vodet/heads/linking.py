"""Short-term anchor linking: the same anchors through all frames of a window.

Source: D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided
attention for video object detection", Image and Vision Computing, 2021. With a window of one frame
it is the proposal selection of Faster R-CNN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vodet.boxes import clip_boxes
from vodet.heads.suppression import suppress


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
class Proposals:
    """Proposals of ``B`` windows, linked through their ``T`` frames, best first.

    Args:
        boxes: In pixels, ``[B, T, N, 4]``.
        scores: Objectness logits of the reference frames, ``[B, N]``.
        is_valid: Which of them are there, ``[B, N]``.
    """

    boxes: Float[Tensor, "B T N 4"]
    scores: Float[Tensor, "B N"]
    is_valid: Bool[Tensor, "B N"]

    def resized(self, count: int) -> Proposals:
        """Return the best ``count``, filled up where there are fewer."""
        missing = max(count - self.scores.shape[1], 0)
        pad = torch.nn.functional.pad
        return Proposals(
            pad(self.boxes[:, :, :count], (0, 0, 0, missing)),
            pad(self.scores[:, :count], (0, missing)),
            pad(self.is_valid[:, :count], (0, missing)),
        )


def top_anchors(
    logits: Float[Tensor, "B A"], counts: Sequence[int], per_level: int
) -> tuple[Int[Tensor, "B P"], Int[Tensor, " P"]]:
    """Choose the anchors of each level with the highest logits, level after level.

    Args:
        logits: Objectness of every anchor, level after level.
        counts: Number of anchors of each level.
        per_level: How many of each level are chosen.

    Returns:
        The anchors of each item, and the level of each column.
    """
    starts = [sum(counts[:level]) for level in range(len(counts))]
    best = [
        part.topk(min(per_level, part.shape[1])).indices + start
        for part, start in zip(torch.split(logits, list(counts), dim=1), starts, strict=True)
    ]
    levels = [torch.full_like(part[0], level) for level, part in enumerate(best)]
    return torch.cat(best, dim=1), torch.cat(levels)


def link_anchors(
    boxes: Float[Tensor, "B T P 4"],
    logits: Float[Tensor, "B P"],
    levels: Int[Tensor, " P"],
    sizes: Int[Tensor, "B 2"],
    reference: int,
    limits: ProposalLimits,
) -> tuple[Proposals, Int[Tensor, "B N"]]:
    """Follow the best anchors of the reference frames through their windows.

    A proposal is dropped if its reference logit or any of its coordinates is not finite, or if one
    of its boxes, clipped to the picture, has no extent. Suppression looks at the reference frame
    alone, one level at a time.

    Args:
        boxes: Decoded boxes of the chosen anchors in every frame, in pixels.
        logits: Objectness of the anchors in the reference frame.
        levels: The level of each anchor.
        sizes: ``(height, width)`` of the pictures.
        reference: Place of the reference frame.
        limits: How many are kept.

    Returns:
        The proposals, and the column of each.
    """
    is_good = boxes.isfinite().all(dim=3).all(dim=1) & logits.isfinite()
    boxes = clip_boxes(boxes, sizes[:, None, None])
    sides = boxes[..., 2:] - boxes[..., :2]
    is_good &= (sides > limits.min_size).all(dim=3).all(dim=1)
    columns, is_valid = suppress(
        boxes[:, reference],
        logits,
        levels.expand_as(logits),
        is_good,
        limits.nms_iou,
        min(limits.total, len(levels)),
    )
    items = torch.arange(len(boxes), device=boxes.device).unsqueeze(1)
    kept = boxes.transpose(1, 2)[items, columns].transpose(1, 2)
    proposals = Proposals(
        kept.masked_fill(~is_valid[:, None, :, None], 0),
        logits.gather(1, columns).masked_fill(~is_valid, 0),
        is_valid,
    )
    return proposals, columns
