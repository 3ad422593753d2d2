"""Short-term anchor linking: a proposal is the same anchor in all frames of a window.

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
    """Limits on the number, size and score of proposals.

    Args:
        pre_nms_top_n: Maximum number of anchors per level before non-maximum suppression.
        post_nms_top_n: Maximum number of proposals per frame or window, over all levels, after
            non-maximum suppression.
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
    """Proposals of ``B`` windows, each with a box in all ``T`` frames, highest score first.

    Args:
        boxes: xyxy in input pixels, ``[B, T, N, 4]``.
        scores: Objectness logits in the reference frames, ``[B, N]``.
        is_valid: Which of the ``N`` proposals exist; the others are padding, ``[B, N]``.
    """

    boxes: Float[Tensor, "B T N 4"]
    scores: Float[Tensor, "B N"]
    is_valid: Bool[Tensor, "B N"]

    def resized(self, count: int) -> Proposals:
        """Return the best ``count`` proposals of each window, padded if there are fewer."""
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
    """Choose the anchors with the highest logits in each frame and level.

    Args:
        logits: Objectness logits of all anchors, level by level.
        counts: Number of anchors of each level.
        pre_nms_top_n: Number of anchors to choose per level.

    Returns:
        The indices of the ``P`` chosen anchors of each frame, and the level of each of these ``P``
        columns, which is the same in all frames.
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
    """Turn the best anchors of the reference frames into proposals with a box in every frame.

    An anchor is dropped if its objectness is below the threshold, if its logit or any coordinate is
    not finite, or if one of its boxes, clipped to the picture, has a side that is not longer than
    ``min_size``. Non-maximum suppression compares only boxes of the reference frame and of the same
    level.

    Args:
        boxes: Decoded boxes of the chosen anchors in every frame, xyxy in input pixels.
        logits: Objectness logits of the chosen anchors in the reference frame.
        levels: The level of each chosen anchor.
        sizes: ``(height, width)`` of each reference frame without its padding.
        reference: Position of the reference frame in the windows.
        limits: Limits on the proposals.

    Returns:
        The proposals, and for each proposal the index of its anchor among the ``P`` chosen anchors.
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
