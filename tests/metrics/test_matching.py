from __future__ import annotations

import numpy as np
import pytest

from metrics.tracked import found, one_video
from vodet.metrics.matching import PossibleMatches, in_crowds, match, ranks_in_frames


def one_after_the_other(ious: np.ndarray, last_choice: np.ndarray, shared: np.ndarray) -> list[int]:
    """Each detection takes the free object it wants most; an IoU of 0 is too little."""
    taken: set[int] = set()
    result = []
    for row in ious:
        wishes = [
            (last_choice[object_], -iou, object_)
            for object_, iou in enumerate(row)
            if iou > 0 and object_ not in taken
        ]
        choice = min(wishes)[2] if wishes else -1
        if choice >= 0 and not shared[choice]:
            taken.add(choice)
        result.append(choice)
    return result


@pytest.mark.parametrize("seed", range(20))
def test_asking_all_at_once_ends_where_choosing_one_by_one_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    detections, objects = rng.integers(5, 40, 2).tolist()
    ious = np.round(rng.random((detections, objects)), 1)  # equal ones, and zeros
    ious *= rng.random(ious.shape) < rng.choice([0.1, 0.5, 1])
    last_choice = rng.random(objects) < 0.4
    rows, columns = np.nonzero(ious)
    order = rng.permutation(len(rows))  # possible matches come in any order
    possible = PossibleMatches(rows[order], columns[order], ious[rows, columns][order]).in_order()
    none = np.zeros(objects, bool)
    anyhow = match(possible, detections, objects)
    assert anyhow.tolist() == one_after_the_other(ious, none, none)
    possible = possible.preferring(~last_choice)
    matched = match(possible, detections, objects)
    assert matched.tolist() == one_after_the_other(ious, last_choice, none)
    shared = rng.random(objects) < 0.3
    matched = match(possible, detections, objects, shared)
    assert matched.tolist() == one_after_the_other(ious, last_choice, shared)


def test_a_detection_in_a_crowd_has_half_of_it_inside() -> None:
    truth = one_video([[[0, 0, 100, 100], [300, 0, 400, 100]], []], iscrowd=[[True, False], []])
    predictions = found(
        [
            (0, [50, 0, 150, 100], 0.9),  # half
            (0, [51, 0, 151, 100], 0.9),  # less
            (0, [10, 10, 20, 20], 0.9),  # all
            (0, [200, 10, 200, 20], 0.9),  # without an area, and elsewhere
            (0, [300, 0, 400, 100], 0.9),  # in an object
            (1, [10, 10, 20, 20], 0.9),  # in another frame
        ]
    )
    assert in_crowds(truth, predictions).tolist() == [True, False, True, False, False, False]
    # In whole pixels, 51 of 101 columns are shared; then 50 of 101.
    assert in_crowds(truth, predictions, pixel=1.0).tolist()[:2] == [True, False]
    of_two = one_video([[[0, 0, 100, 100]]], iscrowd=[[True]], classes=2)
    assert not in_crowds(of_two, found([(0, [10, 10, 20, 20], 0.9)], label=1)).any()


def test_ranks_of_each_class_in_each_frame() -> None:
    truth = one_video([[], []], classes=2)
    box = [0.0, 0.0, 1.0, 1.0]
    predictions = found([(frame, box, 0.9) for frame in (1, 0, 1, 1, 0, 1)])
    assert ranks_in_frames(truth, predictions).tolist() == [0, 0, 1, 2, 1, 3]
    predictions.labels[2] = 1
    assert ranks_in_frames(truth, predictions).tolist() == [0, 0, 0, 1, 1, 2]
