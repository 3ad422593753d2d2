from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from metrics.test_vid import slow_area, slow_matches
from metrics.tracked import found, moving_objects, noisy_detections, one_video
from vodet.metrics import motion, track_length
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.detection_table import DetectionTable, Measure
from vodet.metrics.groups import grouped_average_precision
from vodet.structures import GroundTruth


@dataclass(frozen=True)
class Grouping:
    name: str
    names: tuple[str, ...]
    groups: Callable[[GroundTruth], np.ndarray]
    measure: Measure


@pytest.fixture(params=["motion", "track_length"])
def grouping(request: pytest.FixtureRequest) -> Grouping:
    module = {"motion": motion, "track_length": track_length}[request.param]
    groups, measure = f"{request.param}_groups", f"{request.param}_average_precision"
    return Grouping(request.param, module.GROUPS, getattr(module, groups), getattr(module, measure))


def objects_of_all_groups(seed: int, crowds: float = 0.0) -> tuple[GroundTruth, DetectionTable]:
    rng = np.random.default_rng(seed)
    shares = (0.1, 0.4, 0.97)
    truth = moving_objects(rng, videos=2, frames=170, tracks=9, presence=shares, crowds=crowds)
    return truth, noisy_detections(rng, truth, per_object=3)


def test_groups_by_the_vid_rule_equal_a_loop(grouping: Grouping) -> None:
    truth, predictions = objects_of_all_groups(3, crowds=0.04)
    result = grouping.measure(truth, predictions)
    matches, groups = slow_matches(truth, predictions), grouping.groups(truth)
    for group, name in enumerate(grouping.names):
        key = f"{grouping.name}/ap_50_{name}"
        counted = {-1, *np.flatnonzero(groups == group).tolist()}
        expected = []
        for label in (0, 1):
            hits = [best >= 0 for of, best in matches if of == label and best in counted]
            number = int(((groups == group) & (truth.labels == label)).sum())
            assert number > 10
            expected.append(slow_area(hits, number))
            assert result[f"{key}/class {label}"] == pytest.approx(expected[-1])
        assert result[key] == pytest.approx(np.mean(expected))
    shares = [result[f"{grouping.name}/share_{name}"] for name in (*grouping.names, "unknown")]
    objects = groups[~truth.iscrowd]
    assert shares == pytest.approx([(objects == group).mean() for group in (0, 1, 2, -1)])


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


def pycocotools_ap50(truth: GroundTruth, predictions: DetectionTable, ignored: np.ndarray) -> float:
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
def test_groups_by_the_coco_rule_equal_pycocotools(grouping: Grouping, seed: int) -> None:
    truth, predictions = objects_of_all_groups(seed)
    places = np.random.default_rng(seed).permutation(len(predictions))
    predictions.scores[:] = places / len(predictions)  # no equal scores: their order is ours
    result = grouping.measure(truth, predictions)
    for group, name in enumerate(grouping.names):
        expected = pycocotools_ap50(truth, predictions, grouping.groups(truth) != group)
        assert 0.01 < expected < 0.9
        key = f"{grouping.name}/coco_ap_50_{name}"
        assert result[key] == pytest.approx(expected, abs=1e-12)


def test_a_group_of_all_objects_is_coco_with_its_crowds_and_its_best_hundred() -> None:
    rng = np.random.default_rng(0)
    truth = one_video(
        [[[0, 0, 50, 50], [60, 0, 110, 50], [0, 60, 150, 200]]] * 40,
        track_ids=[[0, 1, -1]] * 40,
        iscrowd=[[False, False, True]] * 40,
    )
    predictions = noisy_detections(rng, truth, per_object=80, extra=10)
    groups = np.where(truth.iscrowd, -1, 0)
    result = grouped_average_precision(truth, predictions, "by", ("all", "none"), groups)
    expected = coco_average_precision(truth, predictions)["map_50"]
    assert 0.01 < expected < 0.99
    assert result["by/coco_ap_50_all"] == pytest.approx(expected, abs=1e-12)
    assert math.isnan(result["by/coco_ap_50_none"])
    assert math.isnan(result["by/ap_50_none"])


def test_of_ignored_objects_and_crowds_those_are_taken_first() -> None:
    wanted, ignored, crowd = [0, 0, 100, 100], [200, 0, 300, 100], [190, 0, 310, 100]
    truth = one_video([[wanted, ignored, crowd]], iscrowd=[[False, False, True]])
    predictions = found([(0, ignored, 0.9), (0, crowd, 0.8), (0, wanted, 0.7)])
    groups = np.array([0, 1, -1])
    result = grouped_average_precision(truth, predictions, "by", ("one", "two"), groups)
    for rule in ("ap_50", "coco_ap_50"):
        assert result[f"by/{rule}_one"] == result[f"by/{rule}_two"] == pytest.approx(1)
    assert result["by/share_one"] == result["by/share_two"] == 0.5
    assert result["by/share_unknown"] == 0


def test_by_the_coco_rule_wanted_objects_come_before_ignored_ones_of_higher_iou() -> None:
    wanted, ignored = [0, 0, 100, 100], [10, 0, 110, 100]
    truth = one_video([[wanted, ignored]])
    predictions = found([(0, [8, 0, 108, 100], 0.9)])
    result = grouped_average_precision(truth, predictions, "by", ("one", "two"), np.array([0, 1]))
    assert result["by/coco_ap_50_one"] == result["by/coco_ap_50_two"] == pytest.approx(1)
    # The VID rule matches once, whatever the group: to the second, and drops it for the first.
    assert (result["by/ap_50_one"], result["by/ap_50_two"]) == (0, 1)


@pytest.mark.parametrize(("better", "expected"), [(99, 1 / 100), (100, 0)])
def test_by_the_coco_rule_a_hundred_detections_of_a_frame_count(
    better: int, expected: float
) -> None:
    rows = [(0, [200.0, 0.0, 210.0, 10.0], 0.9)] * better + [(0, [0.0, 0.0, 10.0, 10.0], 0.1)]
    truth = one_video([[[0, 0, 10, 10]]])
    result = grouped_average_precision(truth, found(rows), "by", ("all",), np.array([0]))
    assert result["by/coco_ap_50_all"] == pytest.approx(expected)
    assert result["by/ap_50_all"] == pytest.approx(1 / (better + 1))  # all count
