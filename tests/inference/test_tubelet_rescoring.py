from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from inference.video_columns import Columns, crowded_video, slow_iou
from vodet.inference.tubelet_rescoring import (
    OpenTubelets,
    link_neighbours,
    rescore,
    rescore_frame,
    rescore_online,
)

BOX = [0.0, 0.0, 10.0, 10.0]
NONE = np.empty(0, np.int64)


def best_links(boxes: np.ndarray, rows: list[int], earlier: list[int]) -> dict[int, int]:
    """Try all ways to link, one to one; a row may stay without."""
    free = [*earlier, *[-1] * len(rows)]
    best: tuple[float, dict[int, int]] = (-1, {})
    for way in {*permutations(free, len(rows))}:
        pairs = [pair for pair in zip(rows, way, strict=True) if pair[1] >= 0]
        overlaps = {(r, e): slow_iou(boxes[r], boxes[e]) for r, e in pairs}
        links = {r: e for (r, e), overlap in overlaps.items() if overlap >= 0.5}
        total = sum(overlap for overlap in overlaps.values() if overlap >= 0.5)
        best = max(best, (total, links), key=lambda found: found[0])
    return best[1]


def slow_tubelets(frames: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """Rows of each tubelet, in order, frame by frame and class by class."""
    wide, tubelets = boxes.astype(float), {}
    for row in range(len(frames)):
        tubelets[row] = [row]
    for frame in range(1, frames.max() + 1):
        for label in np.unique(labels):
            now, before = (
                np.flatnonzero((frames == number) & (labels == label)).tolist()
                for number in (frame, frame - 1)
            )
            for row, earlier in best_links(wide, now, before).items():
                tubelets[row] = [*tubelets[earlier], row]
    return list(tubelets.values())


def small_video(rng: np.random.Generator) -> Columns:
    """At most three detections of a class in a frame: all ways to link them can be tried."""
    rows = [
        (frame, label, *(center + frame * 0.7 + rng.normal(0, 2, 2)), *rng.normal(40, 2, 2))
        for frame in rng.permutation(np.delete(np.arange(20), 7))
        for label in (0, 1)
        for center in rng.permutation([30, 37, 90])[: rng.integers(1, 4)]
    ]
    table = np.array(rows)
    boxes = np.hstack([table[:, 2:4], table[:, 2:4] + table[:, 4:]]).astype(np.float32)
    scores = rng.random(len(rows), np.float32)
    return table[:, 0].astype(np.int64), boxes, scores, table[:, 1].astype(np.int64)


@pytest.mark.parametrize("weight", [0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_equals_a_loop_over_frames(seed: int, weight: float) -> None:
    frames, boxes, scores, labels = small_video(np.random.default_rng(seed))
    until_then = slow_tubelets(frames, boxes, labels)
    whole = {row: tubelet for tubelet in sorted(until_then, key=len) for row in tubelet}
    assert max(map(len, until_then)) > 5
    before = link_neighbours(frames, boxes, labels)
    assert before.tolist() == [tubelet[-2] if len(tubelet) > 1 else -1 for tubelet in until_then]
    for function, tubelets in (
        (rescore, [whole[row] for row in range(len(frames))]),
        (rescore_online, until_then),
    ):
        rows, found = function(frames, boxes, scores, labels, weight)
        expected = [
            (1 - weight) * scores[row] + weight * sum(scores[tubelet].tolist()) / len(tubelet)
            for row, tubelet in enumerate(tubelets)
        ]
        assert rows.tolist() == list(range(len(frames)))
        assert found == pytest.approx(expected, rel=1e-6)
        assert found.dtype == np.float32


@pytest.mark.parametrize("seed", range(3))
def test_online_is_offline_on_the_frames_until_then(seed: int) -> None:
    frames, *others = crowded_video(np.random.default_rng(seed))
    _, online = rescore_online(frames, *others)
    for now in range(frames.max() + 1):
        seen = frames <= now
        _, offline = rescore(frames[seen], *(column[seen] for column in others))
        assert online[frames == now] == pytest.approx(offline[frames[seen] == now], rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_frame_by_frame_is_the_same_and_holds_one_frame(seed: int) -> None:
    frames, boxes, scores, labels = crowded_video(np.random.default_rng(seed))
    _, expected = rescore_online(frames, boxes, scores, labels)
    tubelets = OpenTubelets.none()
    for now in range(frames.max() + 1):
        here = frames == now
        found, tubelets = rescore_frame(tubelets, boxes[here], scores[here], labels[here])
        assert found == pytest.approx(expected[here], rel=1e-6)
        assert len(tubelets.boxes) == len(tubelets.sums) == len(tubelets.counts) == here.sum()


def test_scores_by_hand() -> None:
    columns = np.arange(3), np.array([BOX] * 3), np.array([0.9, 0.3, 0.6]), np.zeros(3, np.int64)
    assert rescore(*columns)[1] == pytest.approx([0.75, 0.45, 0.6])
    assert rescore_online(*columns)[1] == pytest.approx([0.9, 0.45, 0.6])
    assert rescore(*columns, weight=1.0)[1] == pytest.approx([0.6] * 3)
    assert rescore(*columns, weight=0.0)[1] == pytest.approx([0.9, 0.3, 0.6])


def test_a_step_does_not_change_the_state_it_is_given() -> None:
    one = np.array([BOX]), np.array([0.4]), np.zeros(1, np.int64)
    _, state = rescore_frame(OpenTubelets.none(), *one)
    for _ in range(2):
        scores, after = rescore_frame(state, one[0], np.array([0.8]), one[2])
        assert scores == pytest.approx([0.7])
        assert (after.sums.tolist(), after.counts.tolist()) == ([pytest.approx(1.2)], [2])
    assert (state.sums.tolist(), state.counts.tolist()) == ([0.4], [1])


@pytest.mark.parametrize(("shift", "is_linked"), [(3.3, True), (3.4, False)])
def test_links_need_an_iou_of_half(shift: float, is_linked: bool) -> None:
    # Boxes 10 wide, a shift of 10 / 3 apart, have it exactly.
    boxes = np.array([BOX, [shift, 0, 10 + shift, 10]])
    before = link_neighbours(np.arange(2), boxes, np.zeros(2, int))
    assert before.tolist() == [-1, 0 if is_linked else -1]


def test_neither_other_classes_nor_frames_apart_are_linked() -> None:
    before = link_neighbours(np.array([0, 1, 3]), np.array([BOX] * 3), np.array([0, 1, 0]))
    assert before.tolist() == [-1, -1, -1]


def test_links_are_one_to_one_and_the_sum_decides() -> None:
    # The first of frame 1 overlaps both of frame 0, the second only the one it overlaps less.
    boxes = np.array(
        [[0, 0, 10, 10], [2, 0, 12, 10], [0.5, 0, 10.5, 10], [-2, 0, 8, 10]], np.float32
    )
    before = link_neighbours(np.array([0, 0, 1, 1]), boxes, np.zeros(4, int))
    assert before.tolist() == [-1, -1, 1, 0]


def test_no_detections() -> None:
    for function in (rescore, rescore_online):
        rows, scores = function(NONE, np.empty((0, 4)), np.empty(0), NONE)
        assert (rows.size, scores.size) == (0, 0)
    one = np.array([BOX]), np.array([0.4]), np.zeros(1, np.int64)
    _, state = rescore_frame(OpenTubelets.none(), *one)
    scores, state = rescore_frame(state, np.empty((0, 4)), np.empty(0), NONE)
    assert (len(scores), len(state.boxes)) == (0, 0)
    assert rescore_frame(state, *one)[1].counts.tolist() == [1]
