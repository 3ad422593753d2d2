"""RoIAlign, the half-pixel-correct one, at many times torchvision's speed on a CPU.

Source: K. He et al., "Mask R-CNN" (arXiv 1703.06870), section 3. The function is that of
``torchvision.ops.roi_align`` with ``aligned=True`` and ``sampling_ratio=0``, which reads one value
of one channel at a time on one thread of a CPU; how the two compare is printed by
``scripts/benchmarks/roi_align.py``.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align as torchvision_roi_align


def roi_align(
    maps: Float[Tensor, "F C h w"],
    boxes: Float[Tensor, "n 4"],
    frames: Int[Tensor, " n"],
    scale: float,
    size: int,
) -> Float[Tensor, "n C size size"]:
    """Average maps over a grid of bins in each box.

    A bin is the mean of bilinear samples less than a cell apart. Samples of a bin lie on a grid,
    and the interpolation weight of a cell is a product over both axes, so each bin is a weighted
    sum of few cells, each cell once: on a CPU one ``embedding_bag`` computes all of them, with the
    channels of a cell as its row. A GPU has a kernel of its own for it.

    Args:
        maps: Feature maps of some frames; fastest in channels-last memory.
        boxes: In pixels of the frames.
        frames: To which frame each box belongs.
        scale: Cells per pixel.
        size: Bins along each side.
    """
    if maps.device.type != "cpu":
        rois = torch.cat((frames.to(boxes.dtype).unsqueeze(1), boxes), dim=1)
        pooled: Tensor = torchvision_roi_align(maps, rois.to(maps.dtype), size, scale, 0, True)
        return pooled
    channels, height, width = maps.shape[1:]
    left, top, right, bottom = (boxes.detach() * scale - 0.5).unbind(dim=1)
    rows, row_weights, row_taps = _taps(top, bottom - top, height, size)
    columns, column_weights, column_taps = _taps(left, right - left, width, size)
    # Boxes differ in their number of cells: first all rows of all bins, then all cells of those.
    box = torch.arange(len(boxes), device=boxes.device).repeat_interleave(size * size)
    bin_row = torch.arange(len(boxes) * size, device=boxes.device).repeat_interleave(size)
    bin_column = box * size + torch.arange(size, device=boxes.device).repeat(len(boxes) * size)
    of_bin, row = _runs(bin_row * rows.shape[1], row_taps[box])
    of_row, column = _runs((bin_column * columns.shape[1])[of_bin], column_taps[box[of_bin]])
    cells = ((frames * height)[box[of_bin]] + rows.flatten()[row]) * width
    pooled = F.embedding_bag(
        cells[of_row] + columns.flatten()[column],
        maps.permute(0, 2, 3, 1).reshape(-1, channels),
        _starts(row_taps[box] * column_taps[box]),
        mode="sum",
        per_sample_weights=(
            row_weights.flatten()[row][of_row] * column_weights.flatten()[column]
        ).to(maps.dtype),
    )
    return pooled.view(len(boxes), size, size, channels).permute(0, 3, 1, 2)


def _starts(lengths: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    return lengths.cumsum(0) - lengths


def _runs(
    first: Int[Tensor, " n"], lengths: Int[Tensor, " n"]
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Count up from each ``first``, ``lengths`` times; return whose count it is, and the count."""
    owner = torch.arange(len(first), device=first.device).repeat_interleave(lengths)
    shift = (first - _starts(lengths))[owner]
    return owner, shift + torch.arange(len(owner), device=first.device)


def _taps(
    start: Float[Tensor, " n"], length: Float[Tensor, " n"], limit: int, size: int
) -> tuple[Int[Tensor, "bins taps"], Float[Tensor, "bins taps"], Int[Tensor, " n"]]:
    """Return which cells of an axis each bin averages.

    Samples up to a cell outside the map count as on its border, others as 0.

    Args:
        start: Where each box starts, in cells, with the centre of cell 0 at 0.
        length: How long it is.
        limit: Number of cells.
        size: Number of bins.

    Returns:
        Cells and their weights, ``[n * size, taps]``, and how many of the taps each box needs.
    """
    bin_length = (length / size)[:, None, None]
    samples = bin_length.ceil().clamp(min=0)
    most = int(samples.max()) if len(samples) else 0
    sample = torch.arange(most, device=start.device)
    bins = torch.arange(size, device=start.device)[:, None]
    places = start[:, None, None] + bin_length * (bins + (sample + 0.5) / samples)
    is_counted = (sample < samples) & (places >= -1) & (places <= limit)
    places = places.nan_to_num().clamp(0, limit - 1)  # NaN where a box has no extent
    # Samples are less than a cell apart, so they touch one cell more than there are samples.
    first = places[..., :1].floor() if most else places.new_zeros(len(start), size, 1)
    cells = first + torch.arange(most + 1, device=start.device)
    distance = (places.unsqueeze(3) - cells.unsqueeze(2)).abs()  # [n, size, samples, taps]
    weights = ((1 - distance).clamp(min=0) * is_counted.unsqueeze(3)).sum(dim=2)
    weights = weights / samples.clamp(min=1)
    cells = cells.clamp(max=limit - 1).long()
    return cells.flatten(0, 1), weights.flatten(0, 1), samples.flatten().long() + 1
