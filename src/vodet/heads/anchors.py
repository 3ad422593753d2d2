"""Anchors: boxes of fixed shapes at the cells of each level, and the encoding of boxes as deltas.

Source: S. Ren et al., "Faster R-CNN" (arXiv 1506.01497), sections 3.1.1 and 3.1.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from vodet.encodings import FeatureMaps

# Limits a box to 62.5 times the sides of its anchor or proposal, so that the exponential of any
# delta stays finite. The value is from Faster R-CNN.
_LARGEST_LOG_SCALE = math.log(1000.0 / 16)


def anchors_of(
    maps: FeatureMaps, strides: Sequence[int], scale: float, ratios: Sequence[float]
) -> list[Float[Tensor, "A 4"]]:
    """Return the anchors of each level in input pixels, not rounded, row by row.

    The anchors of a cell are centred at ``(stride * column, stride * row)``, as in detectron2.

    Args:
        maps: Maps of the levels, which define the grids and the device.
        strides: Stride of each level, in pixels.
        scale: Square root of the area of an anchor, in strides of its level.
        ratios: Heights of the anchors divided by their widths.
    """
    device = maps.levels[0].device
    root = torch.tensor(ratios, device=device).sqrt()
    shape = torch.stack((-1 / root, -root, 1 / root, root), dim=1) / 2  # [ratios, 4], of area 1
    anchors = []
    for level, stride in zip(maps.levels, strides, strict=True):
        height, width = level.shape[-2:]
        y, x = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
        )
        centers = stride * torch.stack((x, y, x, y), dim=2)
        anchors.append((centers.unsqueeze(2) + scale * stride * shape).view(-1, 4))
    return anchors


def decode_boxes(
    deltas: Float[Tensor, "*n 4"], anchors: Float[Tensor, "*m 4"], weights: Sequence[float]
) -> Float[Tensor, "*n 4"]:
    """Apply ``deltas`` to ``anchors`` and return the boxes, in float32.

    Args:
        deltas: ``(dx, dy, dw, dh)``: shift of the centre relative to the sides of the anchor, and
            logarithm of the ratio of the sides, each multiplied by its weight.
        anchors: Boxes that broadcast to the shape of ``deltas``, in pixels.
        weights: Weights of the four deltas.
    """
    dx, dy, dw, dh = (d / w for d, w in zip(deltas.float().unbind(-1), weights, strict=True))
    left, top, right, bottom = anchors.unbind(-1)
    width, height = right - left, bottom - top
    center_x, center_y = left + width / 2 + dx * width, top + height / 2 + dy * height
    half_width = width * dw.clamp(max=_LARGEST_LOG_SCALE).exp() / 2
    half_height = height * dh.clamp(max=_LARGEST_LOG_SCALE).exp() / 2
    corners = (
        center_x - half_width,
        center_y - half_height,
        center_x + half_width,
        center_y + half_height,
    )
    return torch.stack(corners, dim=-1)


def encode_boxes(
    boxes: Float[Tensor, "n 4"], anchors: Float[Tensor, "n 4"], weights: Sequence[float]
) -> Float[Tensor, "n 4"]:
    """Return the weighted deltas from ``anchors`` to ``boxes``: the inverse of `decode_boxes`."""
    coder = BoxCoder(tuple(weights))
    deltas: Tensor = coder.encode_single(boxes.float(), anchors.float())
    return deltas
