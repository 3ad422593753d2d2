from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metrics.tracked import found, moving_objects, noisy_detections, one_video
from vodet.metrics.bootstrap import interval, resample_videos, resampled_ap, resampled_mean_ap
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.groups import grouped_average_precision
from vodet.metrics.motion import GROUPS, motion_groups
from vodet.metrics.stability import STABILITY_METRICS, stability, stability_sums
from vodet.metrics.subsets import ClassOutcome, subsets_of
from vodet.structures import GroundTruth


@pytest.fixture(scope="module")
def data() -> tuple[GroundTruth, DetectionTable]:
    rng = np.random.default_rng(5)
    truth = moving_objects(rng, videos=5, crowds=0.1)
    predictions = noisy_detections(rng, truth)
    predictions.scores[:] = (rng.permutation(len(predictions)) + 1) / len(predictions)
    return truth, predictions


def drawn(
    truth: GroundTruth, predictions: DetectionTable, numbers: np.ndarray
) -> tuple[GroundTruth, DetectionTable]:
    """Copy each video as often as it was drawn, as videos of their own."""
    frames = np.concatenate(
        [
            np.flatnonzero(truth.videos == video)
            for video, number in enumerate(numbers.astype(int))
            for _ in range(number)
        ]
    )
    copies = np.concatenate([np.full(n, k) for k, n in enumerate([25] * int(numbers.sum()))])
    boxes = [np.arange(truth.box_starts[f], truth.box_starts[f + 1]) for f in frames]
    rows = np.concatenate(boxes)
    image_ids = np.arange(len(frames))
    found_rows = [np.flatnonzero(predictions.image_ids == truth.image_ids[f]) for f in frames]
    table = predictions[np.concatenate(found_rows)]
    return (
        replace(
            truth,
            image_ids=image_ids,
            sizes=truth.sizes[frames],
            videos=copies,
            frame_numbers=truth.frame_numbers[frames],
            box_starts=np.append(0, np.cumsum([len(part) for part in boxes])),
            boxes=truth.boxes[rows],
            labels=truth.labels[rows],
            track_ids=truth.track_ids[rows],
            areas=truth.areas[rows],
            iscrowd=truth.iscrowd[rows],
            video_attributes=np.zeros((int(numbers.sum()), 0), bool),
        ),
        replace(table, image_ids=np.repeat(image_ids, [len(part) for part in found_rows])),
    )


def test_a_resample_equals_an_evaluation_of_the_videos_drawn(
    data: tuple[GroundTruth, DetectionTable],
) -> None:
    truth, predictions = data
    subsets = {(s.group, s.name): s for s in subsets_of(truth, predictions)}
    sums = stability_sums(truth, predictions, 0.3)
    weights = resample_videos(5, 4, seed=1)
    assert weights.sum(axis=1).tolist() == [5, 5, 5, 5]
    assert (weights == 0).any()
    ap = resampled_mean_ap(subsets["", "all objects"].by_iou, weights)
    ap_50 = resampled_mean_ap(subsets["", "all objects"].by_iou[:1], weights)
    fast = resampled_mean_ap(subsets["motion", "fast"].by_iou, weights)
    steadiness = sums.means(weights)
    for row, numbers in enumerate(weights):
        again = drawn(truth, predictions, numbers)
        expected = coco_average_precision(*again)
        assert ap_50[row] == pytest.approx(expected["map_50"], abs=1e-9)
        assert ap[row] == pytest.approx(expected["map"], abs=1e-9)
        groups = motion_groups(again[0])
        by_motion = grouped_average_precision(*again, "motion", GROUPS, groups)
        assert fast[row] == pytest.approx(by_motion["motion/coco_ap_50_fast"], abs=1e-9)
        steady = stability(*again, 0.3)
        assert steadiness[row] == pytest.approx([steady[name] for name in STABILITY_METRICS])


def test_subsets_are_those_of_the_protocols(data: tuple[GroundTruth, DetectionTable]) -> None:
    truth, predictions = data
    subsets = subsets_of(truth, predictions)
    assert [subset.name for subset in subsets] == [
        "all objects", "small", "medium", "large", "slow", "medium", "fast",
        "short", "medium", "long",
    ]  # fmt: skip
    result = coco_average_precision(truth, predictions)
    classes = [outcome.ap for outcome in subsets[0].by_iou[0]]
    expected = [result[f"map_50/{name}"] for name in truth.class_names]
    assert classes == pytest.approx(expected, nan_ok=True)
    small = np.array([np.prod(box[2:] - box[:2]) <= 32**2 for box in truth.boxes])
    wanted = (small & ~truth.iscrowd).sum()
    assert sum(outcome.objects.sum() for outcome in subsets[1].by_iou[0]) == wanted


def test_a_long_curve_is_thinned_out() -> None:
    rng = np.random.default_rng(0)
    is_true = rng.random(20_000) < np.linspace(0.95, 0.1, 20_000)
    scores = np.linspace(1, 0, 20_000, dtype=np.float32)
    outcome = ClassOutcome(is_true, scores, rng.integers(0, 9, 20_000), np.full(9, 2000))
    assert resampled_ap(outcome, np.ones((1, 9)))[0] == pytest.approx(outcome.ap, abs=0.003)


def test_the_same_seed_draws_the_same_videos() -> None:
    assert np.array_equal(resample_videos(7, 20), resample_videos(7, 20))
    assert not np.array_equal(resample_videos(7, 20), resample_videos(7, 20, seed=1))


def test_an_interval_holds_95_percent() -> None:
    values = np.append(np.arange(1001.0), np.nan)
    assert interval(values) == pytest.approx((25, 975))
    assert np.isnan(interval(np.full(3, np.nan))).all()


def test_nothing_to_measure() -> None:
    subsets = subsets_of(one_video([[]]), found([]))
    assert np.isnan(resampled_mean_ap(subsets[0].by_iou, np.ones((2, 1)))).all()
    assert resample_videos(0).shape == (1000, 0)
