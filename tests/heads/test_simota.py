from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from heads.test_two_stage import target
from vodet.encodings import FeatureMaps
from vodet.heads.cells import Cells
from vodet.heads.matching import BACKGROUND, IGNORED
from vodet.heads.simota import assign_cells
from vodet.structures import Target

SIX = Cells.of(FeatureMaps((torch.zeros(1, 1, 2, 3),)), (8,))  # centres 4, 12, 20 and 4, 12
A, B = [0.0, 0, 16, 16], [10.0, 0, 24, 8]
FAR = [90.0, 90, 99, 99]


def assigned(boxes: list[list[float]], objects: Target) -> list[int]:
    """With the same score for all cells and classes."""
    return assign_cells(
        SIX, torch.tensor(boxes), torch.zeros(6), torch.zeros(6, 2), objects, 0.6
    ).tolist()


def test_two_objects_and_six_cells_by_hand() -> None:
    # The centre (8, 8) of A is within 4.8 pixels of cells 0, 1, 3 and 4, which lie in A too. Of B,
    # cells 1 and 2 lie in its box, and only cell 2 is near its centre (17, 4). Cell 5 is of nobody.
    boxes = [A, [8.0, 0, 24, 8], B, [0.0, 8, 16, 16], [0.0, 0, 8, 8], A]
    # IoUs with A: 1, 0.2, 0.15, 0.5, 0.25, so 2 cells: 0 and 3. With B: 0.15, 0.875, 1, 0, 0, so
    # 2 cells: 2 and, as all others cost 1e5 more, the one with the highest IoU: 1.
    assert assigned(boxes, target([A, B], [0, 1])) == [0, 1, 1, 0, BACKGROUND, BACKGROUND]


def test_a_cell_taken_twice_goes_to_the_object_with_the_lower_cost() -> None:
    low = [0.0, 0, 16, 14]  # IoU of 0.875 with A
    nobody = [BACKGROUND] * 5
    assert assigned([A, FAR, FAR, FAR, FAR, FAR], target([low, A], [0, 0])) == [1, *nobody]
    assert assigned([low, FAR, FAR, FAR, FAR, FAR], target([low, A], [0, 0])) == [0, *nobody]


def test_scores_of_the_class_decide_between_equal_boxes() -> None:
    logits, boxes = torch.full((6, 2), -2.0), torch.tensor([FAR] * 6)
    logits[4, 1] = 2
    found = assign_cells(SIX, boxes, torch.zeros(6), logits, target([A], [1]), 0.6)
    assert found.tolist() == [BACKGROUND] * 4 + [0, BACKGROUND]


def test_crowds_are_no_objects_and_their_cells_are_ignored() -> None:
    objects = target([[0.0, 0, 24, 8], A], [0, 1], iscrowd=[True, False])
    found = assigned([FAR, FAR, FAR, A, FAR, FAR], objects)
    assert found == [IGNORED, IGNORED, IGNORED, 1, BACKGROUND, BACKGROUND]
    found = assigned([A, FAR, FAR, FAR, FAR, FAR], objects)  # an object within the crowd
    assert found == [1, IGNORED, IGNORED, BACKGROUND, BACKGROUND, BACKGROUND]
    crowd = target([[0.0, 0, 24, 8]], iscrowd=[True])
    assert assigned([A] * 6, crowd) == [IGNORED] * 3 + [BACKGROUND] * 3
    assert assigned([A] * 6, target()) == [BACKGROUND] * 6


def iou_of(a: list[float], b: list[float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow(
    cells: Cells, boxes: Tensor, objectness: Tensor, logits: Tensor, objects: Target, radius: float
) -> list[int]:
    """SimOTA, one cell and one object at a time, in double precision."""
    centers, strides = cells.centers.tolist(), cells.strides[:, 0].tolist()
    p_object, p_class = objectness.double().sigmoid(), logits.double().sigmoid()
    wanted = objects["boxes"].tolist()

    def inside(cell: int, box: list[float]) -> bool:
        x, y = centers[cell]
        return box[0] < x < box[2] and box[1] < y < box[3]

    def near(cell: int, box: list[float]) -> bool:
        x, y = centers[cell]
        reach = radius * strides[cell]
        return abs(x - (box[0] + box[2]) / 2) < reach and abs(y - (box[1] + box[3]) / 2) < reach

    competing = [
        cell
        for cell in range(len(centers))
        if any(inside(cell, box) or near(cell, box) for box in wanted)
    ]
    takers: dict[int, list[tuple[float, int]]] = {}
    for number, box in enumerate(wanted):
        label, costs, ious = int(objects["labels"][number]), [], []
        for cell in competing:
            ious.append(iou_of(boxes[cell].tolist(), box))
            cost = -3 * math.log(ious[-1] + 1e-8)
            for k in range(logits.shape[1]):
                p = math.sqrt(p_class[cell, k] * p_object[cell])
                cost -= math.log(p if k == label else 1 - p)
            cost += 0 if inside(cell, box) and near(cell, box) else 1e5
            costs.append((cost, cell))
        count = max(int(sum(sorted(ious)[-10:])), 1)
        for cost, cell in sorted(costs)[:count]:
            takers.setdefault(cell, []).append((cost, number))
    return [min(takers[cell])[1] if cell in takers else -1 for cell in range(len(centers))]


@pytest.mark.parametrize("seed", range(8))
def test_like_a_slow_implementation(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = FeatureMaps((torch.zeros(1, 1, 12, 10), torch.zeros(1, 1, 6, 5)))
    cells = Cells.of(maps, (8, 16))
    count = len(cells.corners)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    corner = 70 * torch.rand(6, 2, generator=generator)
    sides = 6 + 40 * torch.rand(6, 2, generator=generator)
    labels = torch.randint(0, 4, (6,), generator=generator).tolist()
    objects = target(torch.cat((corner, corner + sides), dim=1).tolist(), labels)
    boxes = cells.boxes(0.7 * random(1, count, 4) + torch.tensor([0.5, 0.5, 1, 1]))[0]
    inputs = cells, boxes, random(count), random(count, 4), objects, 1.5
    found = assign_cells(*inputs).tolist()
    assert found == slow(*inputs)
    assert len(set(found)) > 4
