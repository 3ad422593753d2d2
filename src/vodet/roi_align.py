"""RoIAlign with the half-pixel correction, many times faster than torchvision's on a CPU.

Source: K. He et al., "Mask R-CNN" (arXiv 1703.06870), section 3. It computes the same function as
``torchvision.ops.roi_align`` with ``aligned=True`` and ``sampling_ratio=0``, which reads one value
of one channel at a time in a single thread on a CPU. ``scripts/benchmarks/roi_align.py`` compares
their speed.
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
    """Divide each box into ``size x size`` bins and return the mean of the map in each bin.

    The mean is taken over bilinear samples that are at most one cell of the map apart. The samples
    lie on a grid, so the total weight of a cell is the product of a row weight and a column weight,
    and a bin is a weighted sum of few cells. On a CPU, a single ``embedding_bag`` computes these
    sums for all bins; its embeddings are the channels of the cells. On a GPU, torchvision's kernel
    is used.

    Args:
        maps: Feature maps of ``F`` frames; fastest in channels-last memory.
        boxes: Boxes xyxy in pixels of the frames.
        frames: For each box, the index in ``maps`` of its frame.
        scale: Cells of the map per pixel of the frame: 1 / stride.
        size: Number of bins along each side of a box.
    """
    if maps.device.type != "cpu" or torch.compiler.is_exporting():
        rois = torch.cat((frames.to(boxes.dtype).unsqueeze(1), boxes), dim=1)
        pooled: Tensor = torchvision_roi_align(maps, rois.to(maps.dtype), size, scale, 0, True)
        return pooled
    channels, height, width = maps.shape[1:]
    left, top, right, bottom = (boxes.detach() * scale - 0.5).unbind(dim=1)
    rows, row_weights, row_taps = _taps(top, bottom - top, height, size)
    columns, column_weights, column_taps = _taps(left, right - left, width, size)
    # The number of cells differs between boxes: list the rows of all bins, then the cells of these
    # rows. On a CPU, index_select is several times as fast as indexing.
    bins = torch.arange(len(boxes) * size * size, device=boxes.device)
    box, bin_row = bins // (size * size), bins // size
    bin_column = box * size + bins % size
    of_bin, row = _runs(bin_row * rows.shape[1], row_taps[box])
    row_starts = ((rows + (frames * height).repeat_interleave(size).unsqueeze(1)) * width).flatten()
    of_row, column = _runs(
        (bin_column * columns.shape[1]).index_select(0, of_bin),
        column_taps[box].index_select(0, of_bin),
    )
    pooled = F.embedding_bag(
        row_starts.index_select(0, row).index_select(0, of_row)
        + columns.flatten().index_select(0, column),
        maps.permute(0, 2, 3, 1).reshape(-1, channels),
        _starts(row_taps[box] * column_taps[box]),
        mode="sum",
        per_sample_weights=(
            row_weights.flatten().index_select(0, row).index_select(0, of_row)
            * column_weights.flatten().index_select(0, column)
        ).to(maps.dtype),
    )
    return pooled.view(len(boxes), size, size, channels).permute(0, 3, 1, 2)


def _starts(lengths: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    return lengths.cumsum(0) - lengths


def _runs(
    first: Int[Tensor, " n"], lengths: Int[Tensor, " n"]
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Concatenate ``n`` ranges of consecutive integers.

    Args:
        first: First integer of each range.
        lengths: Length of each range.

    Returns:
        For each integer, the index of the range that it comes from; and the integers.
    """
    owner = torch.repeat_interleave(lengths)
    shift = (first - _starts(lengths)).index_select(0, owner)
    return owner, shift + torch.arange(len(owner), device=first.device)


def _taps(
    start: Float[Tensor, " n"], length: Float[Tensor, " n"], limit: int, size: int
) -> tuple[Int[Tensor, "bins taps"], Float[Tensor, "bins taps"], Int[Tensor, " n"]]:
    """Return the cells that each bin sums along one axis, and the weights of these cells.

    A sample up to one cell outside the map takes the value of the border cell; a sample further
    outside is 0.

    Args:
        start: Start of each box along the axis, in cells; the centre of cell 0 is at 0.
        length: Length of each box along the axis, in cells.
        limit: Number of cells of the map along the axis.
        size: Number of bins of a box along the axis.

    Returns:
        The indices of the cells and their weights, both ``[n * size, taps]``, and for each box how
        many of the ``taps`` columns its bins need.
    """
    bin_length = (length / size)[:, None, None]
    samples = bin_length.ceil().clamp(min=0)
    most = int(samples.max()) if len(samples) else 0
    sample = torch.arange(most, device=start.device)
    bins = torch.arange(size, device=start.device)[:, None]
    places = start[:, None, None] + bin_length * (bins + (sample + 0.5) / samples)
    is_counted = (sample < samples) & (places >= -1) & (places <= limit)
    places = places.nan_to_num().clamp(0, limit - 1)  # NaN for boxes without extent
    # Samples are at most one cell apart, so k samples touch at most k + 1 cells.
    first = places[..., :1].floor() if most else places.new_zeros(len(start), size, 1)
    cells = first + torch.arange(most + 1, device=start.device)
    distance = (places.unsqueeze(3) - cells.unsqueeze(2)).abs()  # [n, size, samples, taps]
    weights = ((1 - distance).clamp(min=0) * is_counted.unsqueeze(3)).sum(dim=2)
    weights = weights / samples.clamp(min=1)
    cells = cells.clamp(max=limit - 1).long()
    return cells.flatten(0, 1), weights.flatten(0, 1), samples.flatten().long() + 1
