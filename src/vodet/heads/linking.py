"""Short-term anchor linking: follows the same anchors through all frames of a window.

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
    """Limits on proposals.

    Args:
        pre_nms_top_n: Maximum number of anchors per level before suppression.
        post_nms_top_n: Maximum number of proposals of all levels after suppression.
        nms_iou: IoU threshold of non-maximum suppression within a level.
        min_size: Minimum length of the sides of a proposal (exclusive), in pixels.
        score_threshold: Minimum objectness of a proposal in the reference frame, from 0 to 1.
    """

    pre_nms_top_n: int
    post_nms_top_n: int
    nms_iou: float = 0.7
    min_size: float = 0.0
    score_threshold: float = 0.0


@dataclass(frozen=True)
class Proposals:
    """Proposals of ``B`` windows, linked through their ``T`` frames, best first.

    Args:
        boxes: In input pixels, ``[B, T, N, 4]``.
        scores: Objectness logits of the reference frames, ``[B, N]``.
        is_valid: Which rows hold a proposal, ``[B, N]``.
    """

    boxes: Float[Tensor, "B T N 4"]
    scores: Float[Tensor, "B N"]
    is_valid: Bool[Tensor, "B N"]

    def resized(self, count: int) -> Proposals:
        """Return the best ``count`` proposals, padded with invalid rows."""
        missing = max(count - self.scores.shape[1], 0)
        pad = torch.nn.functional.pad
        return Proposals(
            pad(self.boxes[:, :, :count], (0, 0, 0, missing)),
            pad(self.scores[:, :count], (0, missing)),
            pad(self.is_valid[:, :count], (0, missing)),
        )


def top_anchors(
    logits: Float[Tensor, "B A"], counts: Sequence[int], pre_nms_top_n: int
) -> tuple[Int[Tensor, "B P"], Int[Tensor, " P"]]:
    """Choose the anchors with the highest logits in each level.

    Args:
        logits: Objectness logits of all anchors, level by level.
        counts: Number of anchors of each level.
        pre_nms_top_n: Number of anchors to choose per level.

    Returns:
        The indices of the chosen anchors of each frame, and the level of each column.
    """
    starts = [sum(counts[:level]) for level in range(len(counts))]
    best = [
        part.topk(min(pre_nms_top_n, part.shape[1])).indices + start
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

    A proposal is dropped if its objectness is too small, if its logit or any of its coordinates is
    not finite, or if one of its boxes is empty after clipping to the picture. Suppression uses only
    the boxes of the reference frame, separately for each level.

    Args:
        boxes: Decoded boxes of the chosen anchors in every frame, in input pixels.
        logits: Objectness logits of the anchors in the reference frame.
        levels: The level of each anchor.
        sizes: ``(height, width)`` of the pictures.
        reference: Position of the reference frame.
        limits: Limits on the proposals.

    Returns:
        The proposals, and the column of each proposal in ``logits``.
    """
    is_good = boxes.isfinite().all(dim=3).all(dim=1) & logits.isfinite()
    is_good &= logits.sigmoid() >= limits.score_threshold
    boxes = clip_boxes(boxes, sizes[:, None, None])
    sides = boxes[..., 2:] - boxes[..., :2]
    is_good &= (sides > limits.min_size).all(dim=3).all(dim=1)
    columns, is_valid = suppress(
        boxes[:, reference],
        logits,
        levels.expand_as(logits),
        is_good,
        limits.nms_iou,
        min(limits.post_nms_top_n, len(levels)),
    )
    items = torch.arange(len(boxes), device=boxes.device).unsqueeze(1)
    kept = boxes.transpose(1, 2)[items, columns].transpose(1, 2)
    proposals = Proposals(
        kept.masked_fill(~is_valid[:, None, :, None], 0),
        logits.gather(1, columns).masked_fill(~is_valid, 0),
        is_valid,
    )
    return proposals, columns
