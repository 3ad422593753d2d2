from __future__ import annotations

import numpy as np
import pytest

from inference.video_columns import crowded_video, slow_iou
from vodet.inference.seq_nms import Rescore, seq_nms


def slow_seq_nms(
    frames: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, rescore: Rescore
) -> dict[int, float]:
    """Build all chains anew for each sequence, detection by detection."""
    wide = boxes.astype(float)
    left, result = set(range(len(frames))), {}
    while left:
        chains: dict[int, list[int]] = {}
        for row in sorted(left, key=lambda row: frames[row]):
            earlier = [
                chains[other]
                for other in left
                if frames[other] == frames[row] - 1
                and labels[other] == labels[row]
                and slow_iou(wide[other], wide[row]) > 0.5
            ]
            best = max(earlier, key=lambda chain: sum(scores[chain].tolist()), default=[])
            chains[row] = [*best, row]
        chain = max(chains.values(), key=lambda chain: sum(scores[chain].tolist()))
        values = scores[chain].tolist()
        for member in chain:
            result[member] = max(values) if rescore == "max" else sum(values) / len(values)
            left -= {
                other
                for other in left
                if frames[other] == frames[member]
                and labels[other] == labels[member]
                and (other == member or slow_iou(wide[other], wide[member]) > 0.3)
            }
    return result


@pytest.mark.parametrize("rescore", ["mean", "max"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_a_loop_over_detections(seed: int, rescore: Rescore) -> None:
    columns = crowded_video(np.random.default_rng(seed))
    expected = slow_seq_nms(*columns, rescore)
    rows, scores = seq_nms(*columns, rescore)
    assert rows.tolist() == sorted(expected)
    assert scores == pytest.approx([expected[row] for row in rows.tolist()], rel=1e-6)
    assert 0.3 * len(columns[0]) < len(rows) < 0.9 * len(columns[0])


def test_a_weak_detection_between_strong_ones_gains() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    rows, scores = seq_nms(
        np.arange(3), np.array([box] * 3), np.array([0.9, 0.3, 0.9]), np.zeros(3, np.int64)
    )
    assert rows.tolist() == [0, 1, 2]
    assert scores == pytest.approx([0.7] * 3)


def test_a_sequence_may_get_its_largest_score() -> None:
    columns = np.arange(3), np.array([[0.0, 0.0, 10.0, 10.0]] * 3), np.array([0.4, 0.3, 0.9])
    _, scores = seq_nms(*columns, np.zeros(3, np.int64), rescore="max")
    assert scores == pytest.approx([0.9] * 3)


def test_a_sequence_removes_better_single_detections_that_overlap_it() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [4, 0, 14, 10], [50, 0, 60, 10]])
    frames, scores = np.array([0, 1, 1, 1]), np.array([0.5, 0.6, 0.9, 0.1])
    rows, found = seq_nms(frames, boxes, scores, np.zeros(4, np.int64))
    # Boxes 4 apart: an IoU of 60 / 140, too little for a link, enough to be removed.
    assert rows.tolist() == [0, 1, 3]
    assert found == pytest.approx([0.55, 0.55, 0.1])


def test_neither_other_classes_nor_frames_apart_are_linked_or_removed() -> None:
    boxes = np.array([[0, 0, 10, 10]] * 3)
    scores = np.array([0.9, 0.5, 0.4])
    rows, found = seq_nms(np.array([0, 1, 3]), boxes, scores, np.array([0, 1, 0]))
    assert rows.tolist() == [0, 1, 2]
    assert found == pytest.approx(scores)


def test_of_equal_boxes_in_a_frame_the_best_stays() -> None:
    boxes = np.array([[0, 0, 10, 10]] * 3)
    rows, found = seq_nms(np.zeros(3, int), boxes, np.array([0.2, 0.9, 0.4]), np.zeros(3, int))
    assert (rows.tolist(), found.tolist()) == ([1], [np.float32(0.9)])


def test_boxes_without_an_area_and_scores_of_zero() -> None:
    boxes = np.array([[5, 5, 5, 5], [0, 0, 10, 10]])
    rows, _ = seq_nms(np.zeros(2, int), boxes, np.array([0.5, 0.0]), np.zeros(2, int))
    assert rows.tolist() == [0]


def test_no_detections() -> None:
    none = np.empty(0, np.int64)
    rows, scores = seq_nms(none, np.empty((0, 4)), np.empty(0), none)
    assert (rows.size, scores.size) == (0, 0)
