"""Training targets of the cells and candidates of a one-stage head, and the losses of the cells.

Sources: Z. Ge et al., "YOLOX" (arXiv 2107.08430); Y. Shi, N. Wang, X. Guo, "YOLOV" (arXiv
2208.09686), for the targets of candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from vodet.boxes import box_areas
from vodet.encodings import Candidates
from vodet.heads.candidate_head import CandidateTargets
from vodet.heads.matching import IGNORED
from vodet.stages import ReferenceTargets
from vodet.structures import Target

MIN_OVERLAP = 0.6  # minimum IoU of a candidate with an object that its cell is not assigned to


@dataclass(frozen=True)
class CellTargets(CandidateTargets):
    """Training targets of candidates that are cells.

    Args:
        is_judged: Whether the candidate is known to be an object or background, ``[B, N]``. It is
            False for padding, in crowd regions and in frames without annotations.
    """

    is_judged: Tensor


def objects_of(
    matched: Int[Tensor, "B n"], targets: ReferenceTargets
) -> tuple[Float[Tensor, "B n 4"], Int[Tensor, "B n"]]:
    """Return the box and the label of the object that each cell or candidate is matched to.

    Box and label are 0 if there is no object.

    Args:
        matched: For each cell or candidate, the row of its object in the target of its frame;
            negative if it has no object.
        targets: Objects of the frames.
    """
    boxes, labels = matched.new_zeros(*matched.shape, 4, dtype=torch.float32), matched * 0
    for item, target in enumerate(targets):
        if target is not None:
            (found,) = (matched[item] >= 0).nonzero(as_tuple=True)
            boxes[item, found] = target["boxes"][matched[item, found]]
            labels[item, found] = target["labels"][matched[item, found]]
    return boxes, labels


def cell_losses(
    outputs: Mapping[str, Tensor], matched: Int[Tensor, "B A"], targets: ReferenceTargets
) -> dict[str, Tensor]:
    """Return the losses ``class``, ``objectness`` and ``iou`` of all cells of ``B`` frames.

    A positive cell is a cell that is assigned to an object. ``objectness`` is the binary
    cross-entropy of all cells that are not ignored. ``class`` is the binary cross-entropy of the
    positive cells; the target is the IoU of the cell's box with the object for the object's class
    and 0 for other classes.
    ``iou`` is ``1 - IoU^2`` of the positive cells. Each loss is a sum divided by the number of
    positive cells.

    Args:
        outputs: ``class_logits`` ``[B, A, K]``, ``objectness`` ``[B, A]`` (logits), and
            ``cell_boxes`` ``[B, A, 4]``.
        matched: For each cell, the row of its object in the target, or BACKGROUND or IGNORED.
        targets: Objects of the frames; None for frames without annotations.
    """
    is_positive = matched >= 0
    boxes, labels = (values[is_positive] for values in objects_of(matched, targets))
    iou = paired_iou(outputs["cell_boxes"][is_positive], boxes)
    logits, objectness = outputs["class_logits"][is_positive], outputs["objectness"]
    wanted = F.one_hot(labels, logits.shape[1]) * iou.detach().unsqueeze(1)
    terms = F.binary_cross_entropy_with_logits(objectness, is_positive.float(), reduction="none")
    count = is_positive.sum().clamp(min=1)
    return {
        "class": F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / count,
        "objectness": terms.masked_fill(matched == IGNORED, 0).sum() / count,
        "iou": (1 - iou.square()).sum() / count,
    }


def candidate_targets(
    candidates: Candidates,
    matched: Int[Tensor, "B N"],
    targets: ReferenceTargets,
    num_classes: int,
    is_by_overlap: bool,
) -> CellTargets:
    """Return the training targets of candidates.

    Args:
        candidates: The candidates of ``B`` frames.
        matched: For each candidate, the row in the target of the object that its cell is assigned
            to, or BACKGROUND or IGNORED.
        targets: Objects of the frames; None for frames without annotations.
        num_classes: Number of classes.
        is_by_overlap: Whether a candidate without an object is assigned to the object that it
            overlaps most, if their IoU is at least 0.6.
    """
    boxes = candidates.boxes[:, 0]
    if is_by_overlap:
        items = zip(matched, boxes, targets, strict=True)
        matched = torch.stack([_by_overlap(row, own, target) for row, own, target in items])
    matched = matched.masked_fill(~candidates.is_valid[:, 0], IGNORED)
    has_object = matched >= 0
    objects, labels = objects_of(matched, targets)
    iou = paired_iou(boxes, objects) * has_object
    return CellTargets(
        scores=F.one_hot(labels, num_classes) * iou.unsqueeze(2),
        is_trained=has_object,
        objects=objects,
        has_object=has_object,
        is_judged=matched != IGNORED,
    )


def _by_overlap(
    matched: Int[Tensor, " N"], boxes: Float[Tensor, "N 4"], target: Target | None
) -> Int[Tensor, " N"]:
    """Assign candidates without an object to the object of highest IoU, if it is at least 0.6."""
    if target is None or target["iscrowd"].all():
        return matched
    objects = (~target["iscrowd"]).nonzero()[:, 0]
    iou, best = box_iou(target["boxes"][objects], boxes).max(dim=0)
    is_close = (matched < 0) & (iou >= MIN_OVERLAP)
    return torch.where(is_close, objects[best], matched)


def paired_iou(boxes: Float[Tensor, "*n 4"], others: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Return the IoU of each box with the box in the same place of ``others``."""
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = box_areas(torch.cat((low, high), dim=-1))
    return shared / (box_areas(boxes) + box_areas(others) - shared).clamp(min=1e-9)
