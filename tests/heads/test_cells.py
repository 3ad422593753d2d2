from __future__ import annotations

import torch

from vodet.encodings import FeatureMaps
from vodet.heads.cells import Cells, flat_cells, gather_cells

MAPS = FeatureMaps((torch.zeros(2, 5, 4, 6), torch.zeros(2, 5, 2, 3)))


def test_cells_are_in_the_order_of_the_maps() -> None:
    cells = Cells.of(MAPS, (8, 16))
    assert cells.corners.shape == (24 + 6, 2)
    assert cells.corners[7].tolist() == [1, 1]  # column, row
    assert cells.centers[7].tolist() == [12, 12]
    assert cells.corners[24 + 5].tolist() == [2, 1]
    assert cells.centers[24 + 5].tolist() == [40, 24]
    levels = [torch.arange(2 * n).view(2, 1, *hw).float() for n, hw in ((24, (4, 6)), (6, (2, 3)))]
    assert flat_cells(levels)[1, :, 0].tolist() == [*range(24, 48), *range(6, 12)]


def test_boxes_are_relative_to_the_corner_of_the_cell() -> None:
    cells = Cells.of(MAPS, (8, 16))
    raw = torch.zeros(1, 30, 4)
    raw[0, 7] = torch.tensor([0.5, 0.25, 0, torch.log(torch.tensor(3.0))])
    boxes = cells.boxes(raw)[0]
    torch.testing.assert_close(boxes[7], torch.tensor([12 - 4, 10 - 12, 12 + 4, 10 + 12.0]))
    assert boxes[29].tolist() == [32 - 8, 16 - 8, 32 + 8, 16 + 8]
    assert cells.boxes(raw + 1e4).isfinite().all()


def test_cells_of_the_padding_are_outside() -> None:
    sizes = torch.tensor([[32, 48], [17, 28]])  # height, width
    inside = Cells.of(MAPS, (8, 16)).inside(sizes)
    assert inside[0].all()
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[:2, :3] = True  # centres at 4, 12, 20, 28 are below 17 and 28
    assert torch.equal(inside[1, :24].view(4, 6), expected)
    coarse = [[True, True, False], [False, False, False]]
    assert inside[1, 24:].view(2, 3).tolist() == coarse


def test_some_cells_are_gathered() -> None:
    torch.manual_seed(0)
    levels = [torch.randn_like(level) for level in MAPS.levels]
    rows = torch.tensor([[0, 23, 24, 29], [7, 7, 28, 25]])
    expected = flat_cells(levels).gather(1, rows.unsqueeze(2).expand(-1, -1, 5))
    assert torch.equal(gather_cells(levels, rows), expected)
