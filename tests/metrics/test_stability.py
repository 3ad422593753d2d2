from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from metrics.test_motion import slow_iou
from metrics.tracked import found, moving_objects, noisy_detections, one_video
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.stability import stability
from vodet.structures import GroundTruth


def slow_finders(
    truth: GroundTruth, predictions: DetectionTable, threshold: float
) -> dict[int, int]:
    finders: dict[int, int] = {}
    for frame, image_id in enumerate(truth.image_ids):
        free = [
            row
            for row in range(truth.box_starts[frame], truth.box_starts[frame + 1])
            if not truth.iscrowd[row]
        ]
        for detection in np.flatnonzero(predictions.image_ids == image_id):
            fits = [
                (slow_iou(predictions.boxes[detection], truth.boxes[row]), row)
                for row in free
                if truth.labels[row] == predictions.labels[detection]
                and predictions.scores[detection] >= np.float32(threshold)
            ]
            best_iou, best = max(fits, default=(0.0, -1))
            if best_iou >= 0.5:
                free.remove(best)
                finders[best] = int(detection)
    return finders


def slow_stability(
    truth: GroundTruth, predictions: DetectionTable, threshold: float
) -> list[float]:
    finders, frames = slow_finders(truth, predictions, threshold), truth.frames
    shares, drop_outs, total, jitter, changes = [], 0, 0, [], []
    for video in np.unique(truth.videos):
        for track in set(truth.track_ids.tolist()) - {-1}:
            rows = [  # frames are in order here
                row
                for row in np.flatnonzero(truth.track_ids == track)
                if truth.videos[frames[row]] == video and not truth.iscrowd[row]
            ]
            if not rows:
                continue
            signs = "".join("x" if row in finders else " " for row in rows)
            shares.append(signs.count("x") / len(signs))
            drop_outs += len(signs.split()) - 1 if signs.strip() else 0
            total += len(rows)
            for row, after in pairwise(rows):
                if row in finders and after in finders and frames[after] - frames[row] == 1:
                    one, two = finders[row], finders[after]
                    own = slow_iou(predictions.boxes[one], predictions.boxes[two])
                    jitter.append(slow_iou(truth.boxes[row], truth.boxes[after]) - own)
                    changes.append(abs(float(predictions.scores[one] - predictions.scores[two])))
    return [np.mean(shares), 100 * drop_outs / total, np.mean(jitter), np.mean(changes)]


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_loop_over_tracks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = moving_objects(rng, tracks=10, crowds=0.05)
    predictions = noisy_detections(rng, truth)
    result = stability(truth, predictions, score_threshold=0.4)
    names = ("found", "drop_outs", "jitter", "score_change")
    assert [result[f"stability/{name}"] for name in names] == pytest.approx(
        slow_stability(truth, predictions, 0.4), rel=1e-5
    )
    assert 0.2 < result["stability/found"] < 0.9
    assert result["stability/drop_outs"] > 5


BOX, HALF = [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]


def test_by_hand() -> None:
    truth = one_video([[BOX]] * 8)
    rows = [(frame, BOX, 0.5) for frame in (1, 2, 5, 7)]  # lost from 3, from 6; not from 0
    rows[1] = (2, HALF, 0.9)
    result = stability(truth, found([*rows, (4, BOX, 0.2)]), score_threshold=0.3)
    assert result == pytest.approx(
        {
            "stability/score_threshold": 0.3,
            "stability/found": 4 / 8,
            "stability/drop_outs": 100 * 2 / 8,
            "stability/jitter": 1 - 0.5,
            "stability/score_change": 0.4,
        }
    )
    lower = stability(truth, found([*rows, (4, BOX, 0.2)]), score_threshold=0.2)
    assert lower["stability/found"] == 5 / 8


def test_boxes_that_move_as_annotated_do_not_jitter() -> None:
    boxes = [[step * 2.0, 0.0, step * 2.0 + 10, 10.0] for step in range(5)]
    truth = one_video([[box] for box in boxes])
    result = stability(truth, found([(frame, box, 0.9) for frame, box in enumerate(boxes)]))
    assert result["stability/jitter"] == result["stability/score_change"] == 0
    assert result["stability/found"] == 1
    still = found([(frame, boxes[2], 0.9) for frame in (1, 2, 3)])
    assert stability(truth, still)["stability/jitter"] < 0


def test_a_pause_of_the_track_is_no_loss_and_its_ends_are_no_neighbours() -> None:
    truth = one_video([[BOX], [], [HALF]], track_ids=[[4], [], [4]])
    result = stability(truth, found([(0, BOX, 0.9), (2, HALF, 0.5)]))
    assert result["stability/found"] == 1
    assert result["stability/drop_outs"] == 0
    assert math.isnan(result["stability/jitter"])


def test_without_detections_and_without_tracks() -> None:
    assert stability(one_video([[BOX]]), found([]))["stability/found"] == 0
    result = stability(one_video([[BOX]], track_ids=[[-1]]), found([(0, BOX, 0.9)]))
    assert result.pop("stability/score_threshold") == 0.3
    assert all(math.isnan(value) for value in result.values())
