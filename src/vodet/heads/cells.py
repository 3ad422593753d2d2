"""The cells of all levels of a one-stage head, and the boxes that they predict.

Source: Z. Ge et al., "YOLOX" (arXiv 2107.08430).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vodet.encodings import FeatureMaps

# Keeps the exponential finite in float32; a box of exp(8) strides is larger than any picture.
_LARGEST_LOG_SIZE = 8.0


@dataclass(frozen=True)
class Cells:
    """The ``A`` cells of the feature maps of all levels, finest level first, row by row.

    Args:
        corners: Column and row of each cell, ``[A, 2]``.
        strides: Stride of each cell's level, ``[A, 1]``.
    """

    corners: Float[Tensor, "A 2"]
    strides: Float[Tensor, "A 1"]

    @staticmethod
    def of(maps: FeatureMaps, strides: Sequence[int]) -> Cells:
        """Return the cells of feature maps.

        Args:
            maps: Maps ``[F, C, h, w]`` of each level. Only their shapes and device are used.
            strides: Stride of each level.
        """
        corners, repeated = [], []
        for level, stride in zip(maps.levels, strides, strict=True):
            height, width = level.shape[-2:]
            rows, columns = (torch.arange(n, device=level.device) for n in (height, width))
            grid = torch.cartesian_prod(rows, columns).flip(1).float()
            corners.append(grid)
            repeated.append(torch.full_like(grid[:, :1], stride))
        return Cells(torch.cat(corners), torch.cat(repeated))

    @property
    def centers(self) -> Float[Tensor, "A 2"]:
        """Centres ``(x, y)`` in input pixels."""
        return (self.corners + 0.5) * self.strides

    def boxes(self, raw: Float[Tensor, "F A 4"]) -> Float[Tensor, "F A 4"]:
        """Turn the raw outputs ``(x, y, w, h)`` of each cell into boxes xyxy in input pixels.

        The centre of a box is ``((x, y) + (column, row)) * stride``; its width and height are
        ``exp((w, h)) * stride``.
        """
        centers = (raw[..., :2] + self.corners) * self.strides
        half = raw[..., 2:].clamp(max=_LARGEST_LOG_SIZE).exp() * self.strides / 2
        return torch.cat((centers - half, centers + half), dim=-1)

    def inside(self, sizes: Int[Tensor, "F 2"]) -> Bool[Tensor, "F A"]:
        """Return whether the centre of each cell is in the picture, not in the padding.

        Args:
            sizes: ``(height, width)`` of each frame without its padding.
        """
        return (self.centers < sizes.flip(1).unsqueeze(1)).all(dim=2)


def flat_cells(levels: Sequence[Float[Tensor, "F C _ _"]]) -> Float[Tensor, "F A C"]:
    """Join maps of several levels into one tensor with a vector per cell, ordered as in `Cells`."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)


def gather_cells(
    levels: Sequence[Float[Tensor, "F C _ _"]], rows: Int[Tensor, "F N"]
) -> Float[Tensor, "F N C"]:
    """Return the vectors of some cells: ``rows`` of ``flat_cells(levels)``, without joining all.

    Args:
        levels: Maps of each level, finest first.
        rows: For each frame, the indices of the cells, ordered as in `Cells`.
    """
    found, first = levels[0].new_zeros(len(rows), levels[0].shape[1], rows.shape[1]), 0
    for level in levels:
        flat = level.flatten(2)
        last = flat.shape[2] - 1
        own = (rows - first).unsqueeze(1)
        values = flat.gather(2, own.clamp(0, last).expand(-1, flat.shape[1], -1))
        found = torch.where((own >= 0) & (own <= last), values, found)
        first += flat.shape[2]
    return found.transpose(1, 2)
