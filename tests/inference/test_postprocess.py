from __future__ import annotations

import torch

from vodet.inference.postprocess import above, to_original
from vodet.structures import Detections


def detections(boxes: list[list[float]], scores: list[float]) -> Detections:
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores),
        labels=torch.arange(len(scores)),
    )


def test_each_axis_by_its_own_factor_and_clipped() -> None:
    found = detections([[10, 20, 30, 40], [-5, -5, 200, 200]], [0.9, 0.8])
    result = to_original(found, (50, 100), (100, 400))
    assert result["boxes"].tolist() == [[40, 40, 120, 80], [0, 0, 400, 100]]
    assert result["scores"].tolist() == found["scores"].tolist()
    assert result["labels"].tolist() == [0, 1]


def test_boxes_outside_or_without_extent_are_dropped() -> None:
    boxes = [[120, 0, 140, 10], [5, 5, 5, 9], [9, 9, 5, 5], [0, 0, 1, 1], [0, 49.5, 9, 70]]
    result = to_original(detections(boxes, [0.9, 0.8, 0.7, 0.6, 0.5]), (50, 100), (50, 100))
    assert result["labels"].tolist() == [3, 4]
    assert result["boxes"][1].tolist() == [0, 49.5, 9, 50]


def test_scores_of_the_threshold_are_kept() -> None:
    boxes = [[n, 0, 9, 9] for n in range(5)]
    found = above(detections(boxes, [0.9, 0.75, 0.5, 0.5, 0.25]), 0.5)
    assert found["labels"].tolist() == [0, 1, 2, 3]
    assert found["boxes"].tolist() == boxes[:4]
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.75, 0.5, 0.5]))


def test_all_that_is_left_of_many_is_kept() -> None:
    found = detections([[-9, 0, -1, 9]] + [[0, 0, 9, 9]] * 150, [0.5] * 151)
    assert to_original(found, (50, 50), (50, 50))["labels"].tolist() == list(range(1, 151))


def test_no_detections() -> None:
    result = to_original(detections([], []), (50, 50), (100, 100))
    assert result["boxes"].shape == (0, 4)
    assert result["labels"].shape == (0,)
