"""Training targets of CenterNet.

Source: X. Zhou et al., "Objects as Points" (arXiv 1904.07850); the radius of the Gaussians is from
H. Law, J. Deng, "CornerNet" (arXiv 1808.01244).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vodet.structures import Target


@dataclass(frozen=True)
class CenterTargets:
    """Training targets of ``B`` frames on the ``h x w`` grid of the head; lengths are in cells.

    ``p`` is the number of cells in all frames that contain the centre of an object.

    Args:
        heatmap: Target of each class in each cell, ``[B, K, h, w]``; exactly 1 in the cells that
            contain the centre of an object of the class.
        ignored: Whether the loss of the heatmap ignores each cell, ``[B, 1, h, w]``.
        images: For each of the ``p`` cells, the index of its frame in the batch, ``[p]``.
        cells: Index of each of the ``p`` cells in the flattened grid ``h * w``, ``[p]``.
        sizes: Width and height of the object in each of the ``p`` cells, ``[p, 2]``.
        offsets: ``(x, y)`` of the object's centre relative to the upper left corner of its cell,
            ``[p, 2]``.
    """

    heatmap: Float[Tensor, "B K h w"]
    ignored: Bool[Tensor, "B 1 h w"]
    images: Int[Tensor, " p"]
    cells: Int[Tensor, " p"]
    sizes: Float[Tensor, "p 2"]
    offsets: Float[Tensor, "p 2"]


def center_targets(
    targets: Sequence[Target], shape: Sequence[int], stride: int, min_overlap: float
) -> CenterTargets:
    """Return the training targets: each object belongs to the cell that contains its centre.

    If two objects share a cell, the size and offset of the later one are used. A centre on the
    right or bottom border belongs to the last cell. Crowds and ignore regions are not objects; the
    loss of the heatmap ignores all cells that they touch.

    Args:
        targets: Objects of each frame, in input pixels.
        shape: Number of classes, rows and columns of the heatmap.
        stride: Input pixels per cell.
        min_overlap: Minimum IoU that defines the radius of the Gaussians: see `gaussian_radius`.
    """
    classes, height, width = shape
    batch = len(targets)
    boxes = torch.cat([target["boxes"] for target in targets]) / stride
    labels = torch.cat([target["labels"] for target in targets])
    iscrowd = torch.cat([target["iscrowd"] for target in targets])
    counts = torch.tensor([len(target["boxes"]) for target in targets], device=boxes.device)
    images = torch.arange(batch, device=boxes.device).repeat_interleave(counts)

    ignored = _cells_touched(boxes[iscrowd], images[iscrowd], (batch, height, width))
    boxes, labels, images = boxes[~iscrowd], labels[~iscrowd], images[~iscrowd]
    sizes = boxes[:, 2:] - boxes[:, :2]
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    last = torch.tensor([width - 1, height - 1], device=boxes.device)
    corners = centers.long().clamp(min=0).minimum(last)  # of the cell, (x, y)

    gaussians = _gaussians(corners, gaussian_radius(sizes, min_overlap), (height, width))
    heatmap = boxes.new_zeros(batch * classes, height, width)
    channels = (images * classes + labels)[:, None, None].expand_as(gaussians)
    heatmap.scatter_reduce_(0, channels, gaussians, "amax")

    cells = corners[:, 1] * width + corners[:, 0]
    kept = _is_last(images * height * width + cells, batch * height * width)
    return CenterTargets(
        heatmap.view(batch, classes, height, width),
        ignored.unsqueeze(1),
        images[kept],
        cells[kept],
        sizes[kept],
        (centers - corners)[kept],
    )


def gaussian_radius(sizes: Float[Tensor, "n 2"], min_overlap: float) -> Int[Tensor, " n"]:
    """Return how many whole cells the corners of a box may move before its IoU is too low.

    The result is the minimum of three cases: both corners move outwards, both move inwards, or both
    move in the same direction. In each case, the radius is a root of a quadratic equation.

    Args:
        sizes: Width and height of the boxes in cells.
        min_overlap: Minimum IoU between the original and the changed box.
    """
    total, area = sizes.sum(dim=1), sizes.prod(dim=1)
    same_way = _smaller_root(1.0, total, area * (1 - min_overlap) / (1 + min_overlap))
    inwards = _smaller_root(4.0, 2 * total, area * (1 - min_overlap))
    grown = 2 * min_overlap * total
    outwards = (torch.sqrt(grown**2 + 16 * min_overlap * (1 - min_overlap) * area) - grown) / (
        8 * min_overlap
    )
    return torch.stack((same_way, inwards, outwards)).amin(dim=0).long()


def _smaller_root(a: float, b: Tensor, c: Tensor) -> Tensor:
    """Return the smaller root of ``a r^2 - b r + c``."""
    return (b - (b**2 - 4 * a * c).clamp(min=0).sqrt()) / (2 * a)


def _gaussians(
    corners: Int[Tensor, "n 2"], radii: Int[Tensor, " n"], grid: tuple[int, int]
) -> Float[Tensor, "n h w"]:
    """Return a Gaussian on the grid for each object, with a peak of 1 in the object's cell.

    Sigma is 1/6 of the diameter ``2 * radius + 1``. Cells that are further away than the radius in
    x or y are 0.

    Args:
        corners: ``(column, row)`` of each object's cell.
        radii: Radius of each Gaussian in cells.
        grid: Number of rows and columns.
    """
    height, width = grid
    variance = ((2 * radii + 1) / 6).square()
    profiles = []
    for axis, length in ((1, height), (0, width)):
        distance = torch.arange(length, device=corners.device) - corners[:, axis, None]
        profile = torch.exp(-distance.square() / (2 * variance[:, None]))
        profiles.append(profile * (distance.abs() <= radii[:, None]))
    return profiles[0][:, :, None] * profiles[1][:, None, :]


def _cells_touched(
    boxes: Float[Tensor, "n 4"], images: Int[Tensor, " n"], shape: tuple[int, int, int]
) -> Bool[Tensor, "B h w"]:
    batch, height, width = shape
    left, top, right, bottom = boxes.unsqueeze(2).unbind(dim=1)
    row = torch.arange(height, device=boxes.device)
    column = torch.arange(width, device=boxes.device)
    in_rows = (row + 1 > top) & (row < bottom)
    in_columns = (column + 1 > left) & (column < right)
    touched = in_rows[:, :, None] & in_columns[:, None, :]
    counts = torch.zeros(batch, height, width, device=boxes.device)
    return counts.index_add_(0, images, touched.float()) > 0


def _is_last(index: Int[Tensor, " n"], size: int) -> Bool[Tensor, " n"]:
    """Return for each entry of ``index`` whether no later entry has the same value.

    Args:
        index: Values from 0 to ``size - 1``.
        size: Number of possible values.
    """
    position = torch.arange(len(index), device=index.device)
    last = index.new_full((size,), -1).scatter_reduce_(0, index, position, "amax")
    return last[index] == position
