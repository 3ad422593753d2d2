from __future__ import annotations

import math

import numpy as np
import pytest

from metrics.test_motion import slow_iou
from metrics.test_vid import slow_area
from metrics.tracked import found, moving_objects, noisy_detections, one_video
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.uavdt import in_ignored, uavdt_average_precision
from vodet.structures import GroundTruth


def slow_ap_70(truth: GroundTruth, predictions: DetectionTable, label: int | None) -> float:
    outcomes, number = [], 0
    for frame, image_id in enumerate(truth.image_ids):
        rows = np.arange(truth.box_starts[frame], truth.box_starts[frame + 1])
        regions = truth.boxes[rows[truth.iscrowd[rows]]]
        objects = [
            row for row in rows[~truth.iscrowd[rows]] if label is None or truth.labels[row] == label
        ]
        number += len(objects)
        for row in np.flatnonzero(predictions.image_ids == image_id):
            box = predictions.boxes[row]
            if label is not None and predictions.labels[row] != label:
                continue
            if any((box[:2] > r[:2]).all() and (box[2:] < r[2:]).all() for r in regions):
                continue
            overlaps = [(slow_iou(box, truth.boxes[object_]), object_) for object_ in objects]
            best_iou, best = max(overlaps, default=(0.0, -1), key=lambda pair: pair[0])
            if best_iou >= 0.7:
                objects.remove(best)
            outcomes.append(
                (-float(predictions.scores[row]), int(image_id), int(row), best_iou >= 0.7)
            )
    return slow_area([hit for *_, hit in sorted(outcomes)], number)


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_loop_over_frames_and_detections(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = moving_objects(rng, tracks=14, crowds=0.1)
    predictions = noisy_detections(rng, truth, per_object=3)  # best first in each frame
    assert 5 < in_ignored(truth, predictions).sum() < 0.5 * len(predictions)
    result = uavdt_average_precision(truth, predictions)
    expected = [slow_ap_70(truth, predictions, label) for label in (0, 1)]
    assert min(expected) > 0.1
    assert [result[f"uavdt/ap_70/class {label}"] for label in (0, 1)] == pytest.approx(expected)
    assert result["uavdt/map_70"] == pytest.approx(np.mean(expected))
    assert result["uavdt/ap_70"] == pytest.approx(slow_ap_70(truth, predictions, None))
    assert math.isnan(result["uavdt/ap_70/class 2"])


def test_only_what_lies_strictly_inside_an_ignore_rectangle_is_dropped() -> None:
    region, object_ = [100.0, 100.0, 200.0, 200.0], [0.0, 0.0, 50.0, 50.0]
    truth = one_video([[object_, region], []], iscrowd=[[False, True], []])
    inside = found([(0, [101, 101, 199, 199], 0.9), (1, [101, 101, 199, 199], 0.9)])
    assert in_ignored(truth, inside).tolist() == [True, False]
    touching = found(
        [(0, [100, 101, 199, 199], 0.9), (0, [101, 101, 199, 200], 0.9), (0, region, 0.9)]
    )
    assert not in_ignored(truth, touching).any()


def test_a_detection_inside_an_ignore_rectangle_of_any_class_finds_no_object() -> None:
    truth = one_video(
        [[[10, 10, 50, 50], [0, 0, 100, 100]]],
        labels=[[0, 1]],
        iscrowd=[[False, True]],
        classes=2,
    )
    result = uavdt_average_precision(truth, found([(0, [10, 10, 50, 50], 0.9)]))
    assert result["uavdt/ap_70"] == result["uavdt/map_70"] == 0
    without = one_video([[[10, 10, 50, 50]]])
    assert uavdt_average_precision(without, found([(0, [10, 10, 50, 50], 0.9)]))["uavdt/ap_70"] == 1


def test_one_class_forgives_a_wrong_class_and_three_do_not() -> None:
    truth = one_video([[[0, 0, 50, 50]]], labels=[[1]], classes=3)
    result = uavdt_average_precision(truth, found([(0, [0, 0, 50, 50], 0.9)], label=2))
    assert result["uavdt/ap_70"] == 1
    assert result["uavdt/map_70"] == 0


def test_iou_of_0_7_is_enough() -> None:
    truth = one_video([[[0, 0, 10, 10]]])
    for width, expected in ((7, 1.0), (6.9, 0.0)):
        predictions = found([(0, [0, 0, width, 10], 0.9)])
        assert uavdt_average_precision(truth, predictions)["uavdt/ap_70"] == expected
