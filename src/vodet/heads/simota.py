"""SimOTA: assigns to each object the cells whose current predictions fit the object best.

Sources: Z. Ge et al., "YOLOX" (arXiv 2107.08430) and "OTA" (arXiv 2103.14259).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from vodet.heads.cells import Cells
from vodet.heads.matching import BACKGROUND, IGNORED
from vodet.structures import Target

IOU_WEIGHT = 3.0
OUTSIDE = 1e5  # added to the cost of a cell that is not both in the box and near its centre
MOST_CELLS = 10  # per object


@torch.no_grad()
def assign_cells(
    cells: Cells,
    boxes: Float[Tensor, "A 4"],
    objectness: Float[Tensor, " A"],
    class_logits: Float[Tensor, "A K"],
    target: Target,
    center_radius: float,
) -> Int[Tensor, " A"]:
    """Return for each cell the row of its object in ``target``, or BACKGROUND or IGNORED.

    A cell can be assigned if its centre is in the box of an object, or within ``center_radius``
    strides of an object's centre in x and y. Each object takes the k such cells with the lowest
    cost, where k is the sum of its 10 highest IoUs with predicted boxes, rounded down, and at least
    1. A cell that is not both in the object's box and near its centre costs much more. If several
    objects take a cell, it goes to the object with the lowest cost. Background cells whose centre
    is in a crowd region are IGNORED. All inputs are float32.

    Args:
        cells: The cells of a frame.
        boxes: Predicted box of each cell, xyxy in input pixels.
        objectness: Predicted objectness logit of each cell.
        class_logits: Predicted class logits of each cell.
        target: Objects of the frame.
        center_radius: Maximum distance from an object's centre, in strides of the cell's level.
    """
    matched = torch.full_like(objectness, BACKGROUND, dtype=torch.int64)
    crowds = target["boxes"][target["iscrowd"]]
    matched[_is_in(cells.centers, crowds).any(dim=0)] = IGNORED
    objects = (~target["iscrowd"]).nonzero()[:, 0]
    wanted = target["boxes"][objects]
    is_in_box = _is_in(cells.centers, wanted)
    is_near = _is_near(cells, wanted, center_radius)
    (rows,) = (is_in_box | is_near).any(dim=0).nonzero(as_tuple=True)
    if not len(rows):
        return matched
    iou = box_iou(wanted, boxes[rows])
    cost = (
        _class_cost(objectness[rows], class_logits[rows], target["labels"][objects])
        - IOU_WEIGHT * (iou + 1e-8).log()
        + OUTSIDE * ~(is_in_box & is_near)[:, rows]
    )
    taken, is_taken = _cheapest(cost, iou)
    matched[rows[is_taken]] = objects[taken[is_taken]]
    return matched


def _cheapest(
    cost: Float[Tensor, "G M"], iou: Float[Tensor, "G M"]
) -> tuple[Int[Tensor, " M"], Bool[Tensor, " M"]]:
    """Return for each cell the index of the object that takes it, and whether any object does.

    Args:
        cost: Cost of assigning each of ``M`` cells to each of ``G`` objects.
        iou: IoU of each object with the predicted box of each cell.
    """
    best = iou.topk(min(MOST_CELLS, iou.shape[1]), dim=1).values
    counts = best.sum(dim=1, keepdim=True).long().clamp(min=1)
    rank = cost.argsort(dim=1, stable=True).argsort(dim=1)
    takes = rank < counts
    return cost.masked_fill(~takes, torch.inf).argmin(dim=0), takes.any(dim=0)


def _class_cost(
    objectness: Float[Tensor, " M"], class_logits: Float[Tensor, "M K"], labels: Int[Tensor, " G"]
) -> Float[Tensor, "G M"]:
    """Return the classification cost of assigning each cell to each object.

    It is the binary cross-entropy of ``sqrt(p_class * p_object)`` with the one-hot label of the
    object, summed over classes.
    """
    log_p = (F.logsigmoid(class_logits) + F.logsigmoid(objectness).unsqueeze(1)) / 2
    if_absent = -(-torch.expm1(log_p)).clamp(min=1e-38).log()
    change = -log_p.clamp(min=-100) - if_absent  # where the class is present
    return if_absent.sum(dim=1) + change[:, labels].T


def _is_in(points: Float[Tensor, "A 2"], boxes: Float[Tensor, "G 4"]) -> Bool[Tensor, "G A"]:
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return ((points > low) & (points < high)).all(dim=2)


def _is_near(cells: Cells, boxes: Float[Tensor, "G 4"], radius: float) -> Bool[Tensor, "G A"]:
    """Return whether each cell is within ``radius`` strides of each box's centre, in x and y."""
    centers = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    return ((cells.centers - centers).abs() < radius * cells.strides).all(dim=2)
