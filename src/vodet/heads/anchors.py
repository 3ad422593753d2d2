"""Anchors: boxes of fixed shapes at the cells of each level, and the encoding of boxes as deltas.

Source: S. Ren et al., "Faster R-CNN" (arXiv 1506.01497), sections 3.1.1 and 3.1.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from vodet.encodings import FeatureMaps

# Limits a box to 62.5 times the sides of its anchor or proposal, so that the exponential of any
# delta stays finite. The value is from Faster R-CNN.
_LARGEST_LOG_SCALE = math.log(1000.0 / 16)


@dataclass(frozen=True)
class Anchors:
    """The shapes of the anchors of a cell; all are centred at ``(stride * column, stride * row)``.

    Args:
        scale: Square root of the area of an anchor, in strides of its level.
        ratios: Height divided by width of an anchor; one anchor per ratio and size.
        sizes: Square roots of the areas in pixels, the same at every level; if given, ``scale`` is
            not used.
        rounded: Whether to round as torchvision does. The corners of the shapes are rounded to
            whole pixels. The distance between neighbouring cells is then the height (width) of the
            frames divided by the number of rows (columns), rounded down; it is less than the stride
            if the cells reach beyond the frames.
    """

    scale: float = 8.0
    ratios: Sequence[float] = (0.5, 1.0, 2.0)
    sizes: Sequence[float] | None = None
    rounded: bool = False

    @property
    def per_cell(self) -> int:
        """Number of anchors of a cell."""
        return len(self.ratios) * len(self.sizes or [self.scale])

    def of(self, maps: FeatureMaps, strides: Sequence[int]) -> list[Float[Tensor, "A 4"]]:
        """Return the anchors of each level, xyxy in input pixels, row by row.

        Args:
            maps: Feature maps. Only their shapes and device are used.
            strides: Stride of each level, in pixels. The size of the frames is taken to be the
                first stride times the size of the first level.
        """
        device = maps.levels[0].device
        frame = [strides[0] * cells for cells in maps.levels[0].shape[-2:]]
        anchors = []
        for level, stride in zip(maps.levels, strides, strict=True):
            height, width = level.shape[-2:]
            steps = (frame[0] // height, frame[1] // width) if self.rounded else (stride, stride)
            y, x = torch.meshgrid(
                steps[0] * torch.arange(height, device=device),
                steps[1] * torch.arange(width, device=device),
                indexing="ij",
            )
            centers = torch.stack((x, y, x, y), dim=2)
            anchors.append((centers.unsqueeze(2) + self._shapes(stride, device)).view(-1, 4))
        return anchors

    def _shapes(self, stride: int, device: torch.device) -> Float[Tensor, "A 4"]:
        """Return the anchors of the cell at ``(0, 0)``: for each ratio, one anchor per size."""
        root = torch.tensor(list(self.ratios), device=device).sqrt()
        unit = torch.stack((-1 / root, -root, 1 / root, root), dim=1) / 2  # [ratios, 4], of area 1
        sizes = torch.tensor(list(self.sizes or [self.scale * stride]), device=device)
        shapes = (unit.unsqueeze(1) * sizes.unsqueeze(1)).flatten(0, 1)
        return shapes.round() if self.rounded else shapes


def decode_boxes(
    deltas: Float[Tensor, "*n 4"], anchors: Float[Tensor, "*m 4"], weights: Sequence[float]
) -> Float[Tensor, "*n 4"]:
    """Apply ``deltas`` to ``anchors`` and return the boxes, xyxy float32.

    Args:
        deltas: ``(dx, dy, dw, dh)``: shift of the centre relative to the sides of the anchor, and
            logarithm of the ratio of the sides, each multiplied by its weight.
        anchors: Boxes xyxy in pixels, with a shape that broadcasts to the shape of ``deltas``.
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
    """Return the weighted deltas that turn ``anchors`` into ``boxes``; see `decode_boxes`."""
    coder = BoxCoder(tuple(weights))
    deltas: Tensor = coder.encode_single(boxes.float(), anchors.float())
    return deltas
