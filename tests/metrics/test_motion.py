from __future__ import annotations

import math

import numpy as np
import pytest

from metrics.tracked import found, moving_objects, one_video
from vodet.metrics.motion import GROUPS, motion_average_precision, motion_groups, motion_ious
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


def test_two_boxes_of_a_track_in_a_frame_say_nothing_of_its_motion() -> None:
    box, half = [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]
    truth = one_video([[box, half], [box]], track_ids=[[0, 0], [0]])
    assert motion_ious(truth).tolist() == [1, 0.5, 0.75]


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
