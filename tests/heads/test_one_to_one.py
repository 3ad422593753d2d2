from __future__ import annotations

from itertools import permutations

import torch
from torchvision.ops import generalized_box_iou

from vodet.heads.one_to_one import UNMATCHED, match_one_to_one
from vodet.structures import Target


def target(boxes: torch.Tensor, labels: list[int], crowds: list[bool] | None = None) -> Target:
    return Target(
        boxes=boxes,
        labels=torch.tensor(labels, dtype=torch.int64),
        track_ids=torch.full((len(labels),), -1),
        iscrowd=torch.tensor(crowds or [False] * len(labels), dtype=torch.bool),
    )


def random_boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    corner = 40 * torch.rand(count, 2, generator=generator)
    return torch.cat((corner, corner + 5 + 15 * torch.rand(count, 2, generator=generator)), dim=1)


def cost(p: float, box: torch.Tensor, other: torch.Tensor) -> float:
    """Of one candidate for one object, in a picture of 60 x 80, written out."""
    x0, y0, x1, y1 = (float(v) for v in box)
    u0, v0, u1, v1 = (float(v) for v in other)
    l1 = abs(x0 + x1 - u0 - u1) / 160 + abs(y0 + y1 - v0 - v1) / 120
    l1 += abs(x1 - x0 - u1 + u0) / 80 + abs(y1 - y0 - v1 + v0) / 60
    p_ = torch.tensor(p)
    focal = 0.25 * (1 - p_) ** 2 * -(p_).log() - 0.75 * p_**2 * -(1 - p_).log()
    return float(2 * focal + 5 * l1 - 2 * generalized_box_iou(box[None], other[None]))


def test_the_cheapest_of_all_assignments_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([[60, 80]] * 4)
    scores = torch.rand(4, 5, 3, generator=generator)
    boxes = torch.stack([random_boxes(5, generator) for _ in range(4)])
    is_valid = torch.ones(4, 5, dtype=torch.bool)
    is_valid[1, 0] = False
    labels = [[0, 2, 2], [1, 0], [], [2]]
    targets = [target(random_boxes(len(own), generator), own) for own in labels]
    found = match_one_to_one(scores, boxes, is_valid, sizes, [*targets[:3], None])
    for frame in range(2):
        objects, own = targets[frame], labels[frame]
        costs = {
            rows: sum(
                cost(float(scores[frame, row, own[n]]), boxes[frame, row], objects["boxes"][n])
                for n, row in enumerate(rows)
            )
            for rows in permutations(is_valid[frame].nonzero()[:, 0].tolist(), len(own))
        }
        best = min(costs, key=costs.__getitem__)
        expected = torch.full((5,), UNMATCHED)
        expected[list(best)] = torch.arange(len(own))
        assert torch.equal(found[frame], expected)
    assert (found[2:] == UNMATCHED).all()


def test_crowds_are_no_objects_and_rows_are_those_of_the_target() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 30, 30]]])
    objects = target(boxes[0].flip(0), [0, 0], [True, False])
    found = match_one_to_one(
        torch.full((1, 2, 1), 0.5),
        boxes,
        torch.ones(1, 2, dtype=torch.bool),
        torch.tensor([[60, 80]]),
        [objects],
    )
    assert found.tolist() == [[1, UNMATCHED]]


def test_more_objects_than_candidates_leave_some_without() -> None:
    generator = torch.Generator().manual_seed(1)
    found = match_one_to_one(
        torch.rand(1, 2, 1, generator=generator),
        random_boxes(2, generator)[None],
        torch.ones(1, 2, dtype=torch.bool),
        torch.tensor([[60, 80]]),
        [target(random_boxes(4, generator), [0] * 4)],
    )
    assert (found >= 0).all()
    assert found.unique().numel() == 2
