from __future__ import annotations

import math

import numpy as np
import pytest

from metrics.tracked import found, moving_objects, noisy_detections, one_video
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.tide import KINDS, find_errors, tide_errors
from vodet.structures import GroundTruth

GAINS = ("ap_50", *KINDS, "false_positives", "false_negatives")
BOX = [0.0, 0.0, 10.0, 10.0]


def with_crowds(seed: int) -> tuple[GroundTruth, DetectionTable]:
    """Objects and crowds of three classes, and detections with errors of every kind."""
    rng = np.random.default_rng(seed)
    truth = moving_objects(rng, videos=4, classes=4, crowds=0.1)
    predictions = noisy_detections(rng, truth, per_object=3)
    wrong = rng.random(len(predictions)) < 0.15
    predictions.labels[wrong] = rng.integers(0, 3, wrong.sum())
    predictions.labels[:] = np.minimum(predictions.labels, 2)  # the last class has no objects
    predictions.scores[:] = (rng.permutation(len(predictions)) + 1) / len(predictions)
    return truth, predictions


REFERENCE = {
    0: (
        [40.5203, 4.9895, 5.8592, 1.9284, 3.2682, 15.6866, 1.488, 48.2585, 5.0428],
        [75, 141, 65, 288, 402, 16],
    ),
    1: (
        [33.5391, 4.3742, 10.8705, 1.106, 2.6708, 15.6029, 0.9981, 48.9691, 6.7551],
        [74, 178, 47, 246, 417, 12],
    ),
    2: (
        [34.143, 2.2845, 10.088, 1.2239, 2.849, 15.9558, 1.6399, 50.0154, 6.489],
        [51, 179, 57, 266, 430, 19],
    ),
}


@pytest.mark.parametrize("seed", REFERENCE)
def test_equals_tidecv(seed: int) -> None:
    """The numbers were made with tidecv 1.0.1.

    The script adds each row of ``with_crowds(seed)`` to a ``tidecv.Data``, with boxes as xywh: the
    objects by add_ground_truth, the crowds by add_ignore_region, the detections by add_detection.
    It prints ``run.ap``, get_main_errors and get_special_errors of ``TIDE().evaluate(gt, dt,
    mode=TIDE.BOX)``, and the length of each ``run.error_dict[kind]`` without the errors whose
    ``pred["used"]`` is None, which lie in ignore regions. tidecv rounds the recall points
    differently, which changes AP by less than 0.003 points.
    """
    gains, counts = REFERENCE[seed]
    result = tide_errors(*with_crowds(seed))
    assert [100 * result[f"tide/{name}"] for name in GAINS] == pytest.approx(gains, abs=0.003)
    assert [result[f"tide/num_{kind}"] for kind in KINDS] == counts


def test_ap_is_that_of_coco() -> None:
    truth, predictions = with_crowds(3)
    expected = coco_average_precision(truth, predictions)["map_50"]
    assert tide_errors(truth, predictions)["tide/ap_50"] == pytest.approx(expected)


def test_each_kind() -> None:
    away, shifted, near = [50.0, 0, 60, 10], [4.0, 0, 14, 10], [0.0, 0, 10, 9]
    truth = one_video(
        [[BOX], [BOX], [BOX], [BOX], [BOX], [BOX]],
        labels=[[0], [0], [0], [0], [0], [1]],
        classes=2,
    )
    rows = [
        (0, BOX, 0.9), (0, near, 0.8), (1, shifted, 0.7), (2, away, 0.6), (5, BOX, 0.5),
        (5, shifted, 0.4), (3, shifted, 0.35), (3, shifted, 0.3),
    ]  # fmt: skip
    errors = find_errors(truth, found(rows))
    names = [None if kind < 0 else KINDS[kind] for kind in errors.kinds]
    assert names == [
        None, "duplicate", "localisation", "background", "classification", "both",
        "localisation", "localisation",
    ]  # fmt: skip
    assert errors.matched.tolist() == [0, -1, -1, -1, -1, -1, -1, -1]
    assert errors.corrected.tolist() == [-1, -1, 1, -1, 5, -1, 3, -1]  # one for each object
    assert np.flatnonzero(errors.missed).tolist() == [2, 4]


def test_detections_in_a_crowd_are_no_errors() -> None:
    truth = one_video([[[0.0, 0, 100, 100], BOX]], iscrowd=[[True, False]])
    inside, outside = [50.0, 50, 60, 60], [200.0, 0, 210, 10]
    result = tide_errors(truth, found([(0, inside, 0.9), (0, outside, 0.8), (0, BOX, 0.7)]))
    assert result["tide/num_background"] == 1
    assert result["tide/ap_50"] == pytest.approx(0.5)
    assert result["tide/background"] == pytest.approx(0.5)
    assert result["tide/num_missed"] == 0


def test_without_detections_or_objects() -> None:
    result = tide_errors(one_video([[BOX], [BOX]]), found([]))
    assert (result["tide/ap_50"], result["tide/num_missed"]) == (0, 2)
    assert result["tide/background"] == 0
    result = tide_errors(one_video([[]]), found([(0, BOX, 0.9)]))
    assert math.isnan(result["tide/ap_50"])
    assert math.isnan(result["tide/background"])
    assert result["tide/num_background"] == 1
