from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from vodet.inference.view_fusion import fuse_views
from vodet.structures import Detections


def found(*rows: tuple[list[float], float, int]) -> Detections:
    return Detections(
        boxes=torch.tensor([box for box, _, _ in rows], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor([score for _, score, _ in rows]),
        labels=torch.tensor([label for _, _, label in rows], dtype=torch.int64),
    )


def slow_iou(box: Sequence[float], other: Sequence[float]) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    sizes = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return width * height / (sum(sizes) - width * height)


def slow_fuse_views(views: Sequence[Detections]) -> list[tuple[list[float], float, int]]:
    """Detection by detection: box, score and label, best first."""
    left = [
        (box, score, label, view)
        for view, of_view in enumerate(views)
        for box, score, label in zip(*(of_view[key].tolist() for key in of_view), strict=True)
    ]
    left.sort(key=lambda row: -row[1])
    rows, firsts = list(left), []
    while left:
        firsts.append(left[0])
        left = [r for r in left[1:] if r[2] != left[0][2] or slow_iou(r[0], left[0][0]) <= 0.55]
    fused = []
    for first in firsts:
        members = [
            row
            for row in rows
            if max(
                (other for other in firsts if other[2] == row[2]),
                key=lambda other, row=row: slow_iou(other[0], row[0]),
            )
            is first
        ]
        total = sum(score for _, score, _, _ in members)
        box = [sum(b[k] * score for b, score, _, _ in members) / total for k in range(4)]
        best = [
            max((score for _, score, _, view in members if view == number), default=0)
            for number in range(len(views))
        ]
        fused.append((box, sum(best) / len(views), first[2]))
    return sorted(fused, key=lambda row: -row[1])


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_loop_over_detections(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    objects = torch.rand(8, 4, generator=generator) * 30 + torch.tensor([0, 0, 60, 60])
    views = []
    for _ in range(3):
        rows = torch.randint(8, (20,), generator=generator)
        boxes = objects[rows] + torch.randn(20, 4, generator=generator) * 6
        scores = torch.rand(20, generator=generator).sort(descending=True).values
        labels = (rows + torch.rand(20, generator=generator).lt(0.2)) % 3
        views.append(Detections(boxes=boxes, scores=scores, labels=labels))
    expected = slow_fuse_views(views)
    fused = fuse_views(views)
    assert 10 < len(expected) < 40
    assert fused["labels"].tolist() == [label for _, _, label in expected]
    assert fused["scores"].tolist() == pytest.approx([score for _, score, _ in expected])
    torch.testing.assert_close(fused["boxes"], torch.tensor([box for box, _, _ in expected]))
    with torch.autocast("cpu", torch.bfloat16):
        again = fuse_views(views)
    assert all(torch.equal(again[key], fused[key]) for key in ("boxes", "scores", "labels"))
    best = fuse_views(views, max_detections=7)
    assert all(torch.equal(best[key], fused[key][:7]) for key in ("boxes", "scores", "labels"))


def test_a_box_is_weighted_by_scores_and_a_view_without_it_counts_zero() -> None:
    views = [
        found(([0, 0, 10, 10], 0.9, 1), ([50, 0, 60, 10], 0.4, 1)),
        found(([2, 0, 12, 10], 0.3, 1)),
    ]
    fused = fuse_views(views)
    assert fused["boxes"].tolist() == [pytest.approx([0.5, 0, 10.5, 10]), [50, 0, 60, 10]]
    assert fused["scores"].tolist() == pytest.approx([(0.9 + 0.3) / 2, 0.4 / 2])
    assert fused["labels"].tolist() == [1, 1]


def test_of_a_view_only_the_best_score_counts_but_every_box() -> None:
    fused = fuse_views([found(([0, 0, 10, 10], 0.6, 0), ([2, 0, 12, 10], 0.2, 0)), found()])
    assert fused["boxes"].tolist() == [pytest.approx([0.5, 0, 10.5, 10])]
    assert fused["scores"].tolist() == pytest.approx([0.3])


def test_classes_are_fused_apart() -> None:
    box = [5.0, 5.0, 20.0, 20.0]
    fused = fuse_views([found((box, 0.8, 0)), found((box, 0.6, 1))])
    assert fused["labels"].tolist() == [0, 1]
    assert fused["scores"].tolist() == pytest.approx([0.4, 0.3])


def test_a_box_goes_to_the_first_that_it_overlaps_most() -> None:
    # Boxes 10 wide: the third is 2 from the first and 1 from the second, which are 3 apart.
    views = [
        found(([0, 0, 10, 10], 0.9, 0)),
        found(([3, 0, 13, 10], 0.8, 0), ([2, 0, 12, 10], 0.4, 0)),
    ]
    fused = fuse_views(views)
    assert fused["scores"].tolist() == pytest.approx([0.45, 0.4])
    assert fused["boxes"][:, 0].tolist() == pytest.approx([0, (3 * 0.8 + 2 * 0.4) / 1.2])


def test_a_single_view_is_left_alone() -> None:
    view = found(([0, 0, 10, 10], 0.6, 0), ([0, 0, 10, 10], 0.6, 0))
    fused = fuse_views([view])
    assert all(torch.equal(fused[key], view[key]) for key in ("boxes", "scores", "labels"))


def test_scores_of_zero_and_no_detections() -> None:
    fused = fuse_views([found(([0, 0, 10, 10], 0.0, 0)), found(([2, 0, 12, 10], 0.0, 0))])
    assert fused["boxes"].tolist() == [pytest.approx([1, 0, 11, 10])]
    assert fused["scores"].tolist() == [0]
    assert fuse_views([found(), found()])["boxes"].shape == (0, 4)
