"""Non-maximum suppression to a fixed number of boxes.

In ``encode`` and ``step``, it is the only operation of the heads that waits for the GPU.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import batched_nms, nms


def suppress(
    boxes: Float[Tensor, "B n 4"],
    scores: Float[Tensor, "B n"],
    groups: Int[Tensor, "B n"],
    is_valid: Bool[Tensor, "B n"],
    iou_threshold: float,
    capacity: int,
) -> tuple[Int[Tensor, "B N"], Bool[Tensor, "B N"]]:
    """Apply non-maximum suppression to each frame, separately for each group of boxes.

    Args:
        boxes: Boxes of ``B`` frames.
        scores: Scores of the boxes.
        groups: Groups of the boxes, such as levels or classes; boxes of different groups do not
            suppress each other.
        is_valid: Which boxes to use.
        iou_threshold: A box is dropped if its IoU with a kept box of a higher score is larger.
        capacity: Maximum number of boxes kept per frame, ``N``.

    Returns:
        Indices of the kept boxes, highest score first, ``[B, N]``; and which of these ``N`` entries
        are used, since a frame may keep fewer boxes.
    """
    if torch.compiler.is_exporting():
        frames = zip(boxes, scores, groups, is_valid, strict=True)
        found = [_suppress_in_graph(*frame, iou_threshold, capacity) for frame in frames]
        return torch.stack([rows for rows, _ in found]), torch.stack([kept for _, kept in found])
    rows = torch.zeros(len(boxes), capacity, dtype=torch.int64, device=boxes.device)
    is_filled = torch.zeros_like(rows, dtype=torch.bool)
    # Frames are not treated as groups, because torchvision separates groups by shifting their
    # boxes, which costs precision.
    for frame, valid in enumerate(is_valid):
        (own,) = valid.nonzero(as_tuple=True)
        kept = batched_nms(
            boxes[frame, own], scores[frame, own], groups[frame, own], iou_threshold
        )[:capacity]
        rows[frame, : len(kept)] = own[kept]
        is_filled[frame, : len(kept)] = True
    return rows, is_filled


def _suppress_in_graph(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, " n"],
    groups: Int[Tensor, " n"],
    is_valid: Bool[Tensor, " n"],
    iou_threshold: float,
    capacity: int,
) -> tuple[Int[Tensor, " N"], Bool[Tensor, " N"]]:
    """Do the same for one frame of a detector that is being exported.

    An exported graph cannot contain the shapes that depend on the number of valid boxes, so all
    boxes take part. The boxes that are not valid are equal and form another group, so suppression
    leaves one of them, with the lowest score. Groups are separated by shifting their boxes.
    """
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0], device=boxes.device)
    boxes = torch.where(is_valid.unsqueeze(1), boxes, unit)
    step = boxes.max() - boxes.min() + 1
    shift = step * torch.where(is_valid, groups + 1, 0)
    ranked = scores.masked_fill(~is_valid, -torch.inf)
    kept = nms(boxes + shift.unsqueeze(1), ranked, iou_threshold)
    is_kept = torch.zeros_like(is_valid).index_fill(0, kept, True) & is_valid
    best = ranked.masked_fill(~is_kept, -torch.inf).topk(capacity)
    return best.indices, best.values > -torch.inf
