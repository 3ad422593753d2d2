from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from metrics.test_vid import slow_area, slow_matches
from metrics.tracked import found, moving_objects, noisy_detections, one_video
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.motion import GROUPS, motion_average_precision, motion_groups, motion_ious
from vodet.metrics.predictions import Predictions
from vodet.structures import GroundTruth


def slow_iou(box: np.ndarray, other: np.ndarray) -> float:
    box, other = box.astype(float), other.astype(float)
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    sizes = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return width * height / (sum(sizes) - width * height)


def slow_motion(truth: GroundTruth) -> list[float]:
    frames, result = truth.frames, []
    videos, numbers = truth.videos[frames], truth.frame_numbers[frames].astype(int)
    for row, track in enumerate(truth.track_ids):
        overlaps = [
            slow_iou(truth.boxes[row], truth.boxes[other])
            for other in range(len(truth.boxes))
            if track >= 0
            and truth.track_ids[other] == track
            and videos[other] == videos[row]
            and 1 <= abs(numbers[other] - numbers[row]) <= 10
            and not truth.iscrowd[[row, other]].any()
        ]
        result.append(float(np.mean(overlaps)) if overlaps else math.nan)
    return result


@pytest.mark.parametrize("seed", range(2))
def test_motion_equals_a_loop_over_pairs(seed: int) -> None:
    truth = moving_objects(np.random.default_rng(seed), videos=3, crowds=0.1)
    np.testing.assert_allclose(motion_ious(truth), slow_motion(truth))
    groups = motion_groups(truth)
    assert {group: (groups == group).sum() > 3 for group in (-1, 0, 1, 2)} == dict.fromkeys(
        (-1, 0, 1, 2), True
    )


def test_each_object_is_in_one_group() -> None:
    box = [0.0, 0.0, 100.0, 10.0]

    def group_of(width: float) -> str:
        truth = one_video([[box], [[0.0, 0.0, width, 10.0]]])
        assert motion_ious(truth) == pytest.approx(width / 100)
        first, second = motion_groups(truth)
        assert first == second
        return GROUPS[first]

    widths = (70.0, 90.0, 69.0, 71.0, 89.0, 91.0)
    expected = ["medium", "medium", "fast", "medium", "medium", "slow"]
    assert [group_of(width) for width in widths] == expected


def test_tracks_seen_once_and_frames_far_away_have_no_known_motion() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    truth = one_video(
        [[box, box], [box], *[[]] * 10, [box]], track_ids=[[0, 1], [0], *[[]] * 10, [0]]
    )
    # Of track 0, frame 12 is 11 frames from frame 1.
    assert motion_groups(truth).tolist() == [0, -1, 0, -1]


def test_groups_by_the_vid_rule_equal_a_loop() -> None:
    rng = np.random.default_rng(3)
    truth = moving_objects(rng, tracks=14)
    predictions = noisy_detections(rng, truth, per_object=3)
    result = motion_average_precision(truth, predictions)
    matches, groups = slow_matches(truth, predictions), motion_groups(truth)
    for group, name in enumerate(GROUPS):
        counted = {-1, *np.flatnonzero(groups == group).tolist()}
        expected = []
        for label in (0, 1):
            hits = [best >= 0 for of, best in matches if of == label and best in counted]
            number = ((groups == group) & (truth.labels == label)).sum()
            expected.append(slow_area(hits, number))
            assert result[f"motion/ap_50_{name}/class {label}"] == pytest.approx(expected[-1])
        assert result[f"motion/ap_50_{name}"] == pytest.approx(np.mean(expected))
    shares = [result[f"motion/share_{name}"] for name in (*GROUPS, "unknown")]
    assert sum(shares) == pytest.approx(1)


class IgnoringEval(COCOeval):
    """pycocotools with objects that are ignored but no crowds, which it cannot read."""

    ignored: frozenset[int] = frozenset()

    def _prepare(self) -> None:
        super()._prepare()
        for objects in self._gts.values():
            for object_ in objects:
                object_["ignore"] = object_["id"] in self.ignored


def rows_of(
    frames: np.ndarray, boxes: np.ndarray, labels: np.ndarray, **columns: np.ndarray
) -> list[dict[str, Any]]:
    return [
        {
            "id": row + 1,
            "image_id": int(frames[row]) + 1,
            "category_id": int(labels[row]) + 1,
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            "area": float((box[2:] - box[:2]).prod()),
            "iscrowd": 0,
            **{name: column[row].item() for name, column in columns.items()},
        }
        for row, box in enumerate(boxes.astype(float))
    ]


def pycocotools_ap50(truth: GroundTruth, predictions: Predictions, ignored: np.ndarray) -> float:
    annotated, detected = COCO(), COCO()
    order = {image_id: frame for frame, image_id in enumerate(truth.image_ids.tolist())}
    frames = np.array([order[image_id] for image_id in predictions.image_ids.tolist()])
    for coco, rows in (
        (annotated, rows_of(truth.frames, truth.boxes, truth.labels)),
        (
            detected,
            rows_of(frames, predictions.boxes, predictions.labels, score=predictions.scores),
        ),
    ):
        coco.dataset = {
            "images": [{"id": frame + 1} for frame in range(len(truth.image_ids))],
            "categories": [{"id": label + 1} for label in range(len(truth.class_names))],
            "annotations": rows,
        }
        coco.createIndex()
    evaluation = IgnoringEval(annotated, detected, "bbox")
    evaluation.ignored = frozenset((np.flatnonzero(ignored) + 1).tolist())
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.params.areaRng = [[0, 1e10]]
    evaluation.params.areaRngLbl = ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]
    return float(precision[precision > -1].mean())


@pytest.mark.parametrize("seed", range(2))
def test_groups_by_the_coco_rule_equal_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = moving_objects(rng, tracks=14)
    predictions = noisy_detections(rng, truth, per_object=3)
    predictions.scores[:] = rng.permutation(len(predictions)) / len(predictions)
    result = motion_average_precision(truth, predictions)
    for group, name in enumerate(GROUPS):
        expected = pycocotools_ap50(truth, predictions, motion_groups(truth) != group)
        assert 0.01 < expected < 0.9
        assert result[f"motion/coco_ap_50_{name}"] == pytest.approx(expected, abs=1e-12)


def test_if_all_objects_are_slow_slow_is_coco_with_its_crowds_and_its_best_hundred() -> None:
    rng = np.random.default_rng(0)
    truth = one_video(
        [[[0, 0, 50, 50], [60, 0, 110, 50], [0, 60, 150, 200]]] * 40,
        track_ids=[[0, 1, -1]] * 40,
        iscrowd=[[False, False, True]] * 40,
    )
    predictions = noisy_detections(rng, truth, per_object=80, extra=10)
    result = motion_average_precision(truth, predictions)
    expected = coco_average_precision(truth, predictions)["map_50"]
    assert 0.01 < expected < 0.99
    assert result["motion/coco_ap_50_slow"] == pytest.approx(expected, abs=1e-12)
    assert math.isnan(result["motion/coco_ap_50_fast"])
    assert math.isnan(result["motion/ap_50_fast"])


def test_other_groups_are_ignored_and_false_detections_count_in_all() -> None:
    still, left, right = [0, 0, 99, 99], [200, 0, 299, 99], [400, 0, 499, 99]
    truth = one_video([[still, left], [still, right]], track_ids=[[0, 1], [0, 1]])
    predictions = found(
        [(0, still, 0.5), (1, still, 0.5), (0, left, 0.9), (0, [700, 0, 799, 99], 0.8)]
    )
    result = motion_average_precision(truth, predictions)
    # Slow: a false one, then both. Fast: one of two, then a false one.
    assert result["motion/ap_50_slow"] == pytest.approx(2 / 3)
    assert result["motion/ap_50_fast"] == 0.5
    assert math.isnan(result["motion/ap_50_medium"])
    assert result["motion/share_slow"] == result["motion/share_fast"] == 0.5


def test_no_track_ids_and_no_objects() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    without = motion_average_precision(one_video([[box]] * 2, track_ids=[[-1]] * 2), found([]))
    assert without["motion/share_unknown"] == 1
    assert math.isnan(without["motion/ap_50_slow"])
    assert math.isnan(motion_average_precision(one_video([[]]), found([]))["motion/share_slow"])
