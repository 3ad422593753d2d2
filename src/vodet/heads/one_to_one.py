"""One-to-one matching of candidates to objects, for heads without non-maximum suppression.

Source: N. Carion et al., "End-to-End Object Detection with Transformers" (arXiv 2005.12872); the
classification cost is from X. Zhu et al., "Deformable DETR" (arXiv 2010.04159).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from vodet.stages import ReferenceTargets
from vodet.structures import Target

UNMATCHED = -1
_ALPHA, _GAMMA = 0.25, 2.0  # of the focal loss
_CLASS, _L1, _GIOU = 2.0, 5.0, 2.0  # weights of the costs
_INVALID_COST = 1e6


@torch.no_grad()
def match_one_to_one(
    scores: Float[Tensor, "B N K"],
    boxes: Float[Tensor, "B N 4"],
    is_valid: Bool[Tensor, "B N"],
    sizes: Int[Tensor, "B 2"],
    targets: ReferenceTargets,
) -> Int[Tensor, "B N"]:
    """Assign each object of a frame to one candidate, such that the sum of the costs is minimal.

    The assignment is solved on the CPU; the costs of all frames are copied there in one transfer.

    Args:
        scores: Score of each candidate for each class, from 0 to 1.
        boxes: Boxes of the candidates, xyxy in pixels.
        is_valid: Which candidates may be matched.
        sizes: ``(height, width)`` of each frame without its padding.
        targets: Objects of the frames; None for frames without annotations.

    Returns:
        For each candidate, the row of its object in the target, or UNMATCHED. Crowd regions are
        never matched.
    """
    costs = [
        _costs(scores[frame], boxes[frame], is_valid[frame], sizes[frame], target)
        for frame, target in enumerate(targets)
        if target is not None
    ]
    on_cpu = iter(_transferred(costs))
    matched = torch.full(scores.shape[:2], UNMATCHED)
    for frame, target in enumerate(targets):
        if target is not None:
            rows, objects = linear_sum_assignment(next(on_cpu).numpy())
            matched[frame, torch.as_tensor(rows)] = torch.as_tensor(objects)
    return _of_objects(matched.to(scores.device), is_valid, targets)


def _costs(
    scores: Float[Tensor, "N K"],
    boxes: Float[Tensor, "N 4"],
    is_valid: Bool[Tensor, " N"],
    size: Int[Tensor, " 2"],
    target: Target,
) -> Float[Tensor, "N n"]:
    """Return the cost of matching each candidate to each object of a frame that is not a crowd."""
    is_object = ~target["iscrowd"]
    objects, p = target["boxes"][is_object], scores[:, target["labels"][is_object]].float()
    found = _ALPHA * (1 - p) ** _GAMMA * -(p + 1e-8).log()
    missed = (1 - _ALPHA) * p**_GAMMA * -(1 - p + 1e-8).log()
    sides = size.flip(0).repeat(2)
    own, others = (box_convert(b / sides, "xyxy", "cxcywh") for b in (boxes, objects))
    distance = torch.cdist(own, others, p=1)
    overlap = generalized_box_iou(boxes, objects)
    cost = (_CLASS * (found - missed) + _L1 * distance - _GIOU * overlap).nan_to_num(_INVALID_COST)
    return torch.where(is_valid.unsqueeze(1), cost, _INVALID_COST)


def _transferred(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors to the CPU in one transfer."""
    if not tensors:
        return []
    flat = torch.cat([tensor.flatten() for tensor in tensors]).cpu()
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view(own.shape) for part, own in zip(parts, tensors, strict=True)]


def _of_objects(
    matched: Int[Tensor, "B N"], is_valid: Bool[Tensor, "B N"], targets: ReferenceTargets
) -> Int[Tensor, "B N"]:
    """Convert indices of objects to rows of the targets, which may also contain crowds.

    Args:
        matched: For each candidate, the index of its object among the objects that are not crowds,
            or UNMATCHED.
        is_valid: Which candidates may be matched; the others become UNMATCHED.
        targets: Objects of the frames; None for frames without annotations.
    """
    rows = matched.masked_fill(~is_valid, UNMATCHED)
    for frame, target in zip(rows, targets, strict=True):
        if target is not None and target["iscrowd"].any():
            objects = (~target["iscrowd"]).nonzero()[:, 0]
            found = frame >= 0
            frame[found] = objects[frame[found]]
    return rows
