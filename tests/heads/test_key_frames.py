from __future__ import annotations

import pytest
import torch

from vodet.encodings import KeyFrame
from vodet.heads.key_frames import complete_tubelets, follow_tracks
from vodet.structures import Target

SIZE = torch.tensor([50, 100])  # height, width
OBJECT = [20.0, 10, 40, 30]
MOVED = [25.0, 13, 50, 20]  # the upper left corner by (5, 3)


def target(tracks, boxes=None, crowds=()) -> Target:
    """Objects by track; object t lies at (t, t, t + 10, t + 10) where no boxes are given."""
    boxes = [[t, t, t + 10, t + 10] for t in tracks] if boxes is None else boxes
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        labels=torch.zeros(len(tracks), dtype=torch.int64),
        track_ids=torch.tensor(tracks, dtype=torch.int64),
        iscrowd=torch.tensor([row in crowds for row in range(len(tracks))], dtype=torch.bool),
    )


def moved(target: Target, pixels: float) -> Target:
    return target | {"boxes": target["boxes"] + pixels}


def lefts(tubelets: torch.Tensor) -> list[list[float]]:
    return tubelets[:, :, 0].tolist()


def test_tracks_in_every_frame_are_tubelets_in_the_order_of_the_reference_frame():
    frames = [target([7, 3, 5]), moved(target([5, 7]), 0.5), moved(target([1, 7, 5, 9]), 0.25)]
    assert lefts(complete_tubelets(frames, 0)) == [[7, 5], [7.5, 5.5], [7.25, 5.25]]
    assert lefts(complete_tubelets(frames, 1)) == [[5, 7], [5.5, 7.5], [5.25, 7.25]]
    whole = complete_tubelets(frames, 2)[:, 1]
    assert whole.tolist() == [[5, 5, 15, 15], [5.5, 5.5, 15.5, 15.5], [5.25, 5.25, 15.25, 15.25]]


def test_objects_without_a_track_are_tubelets_only_of_a_single_frame():
    frame = target([-1, 4, -1])
    assert lefts(complete_tubelets([frame], 0)) == [[-1, 4, -1]]
    assert lefts(complete_tubelets([frame, frame], 0)) == [[4], [4]]


def test_crowds_are_no_tubelets():
    frame = target([2, 3, 4], crowds=[1])
    assert lefts(complete_tubelets([frame], 0)) == [[2, 4]]
    assert lefts(complete_tubelets([frame, target([2, 3, 4])], 1)) == [[2, 4], [2, 4]]
    assert lefts(complete_tubelets([frame, target([2, 3, 4])], 0)) == [[2, 4], [2, 4]]


@pytest.mark.parametrize("unknown", [0, 1, 2])
def test_a_window_with_a_frame_of_unknown_objects_has_no_tubelets(unknown):
    frames = [None if place == unknown else target([1, 2]) for place in range(3)]
    assert complete_tubelets(frames, 1).shape == (3, 0, 4)


def test_a_window_of_unknown_frames_has_no_tubelets():
    assert complete_tubelets([None], 0).shape == (1, 0, 4)


@pytest.mark.parametrize("length", [1, 3])
def test_a_window_without_objects_has_no_tubelets(length):
    assert complete_tubelets([target([])] * length, 0).shape == (length, 0, 4)


def test_a_window_with_objects_in_some_frames_only_has_no_tubelets():
    frames = [target([]), target([1, 2]), target([])]
    assert complete_tubelets(frames, 0).shape == (3, 0, 4)
    assert complete_tubelets(frames, 1).shape == (3, 0, 4)


def followed(boxes, then: Target, now: Target) -> tuple[list, list]:
    """Boxes afterwards, and which of those before they are."""
    features = torch.arange(len(boxes), dtype=torch.float32).view(-1, 1)
    frame = KeyFrame(features, torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    after = follow_tracks(frame, then, now, SIZE)
    return after.boxes.tolist(), after.features[:, 0].tolist()


def test_a_roi_moves_as_the_upper_left_corner_of_its_object():
    found, _ = followed([[22, 12, 40, 28]], target([6], [OBJECT]), target([6], [MOVED]))
    assert found == [[27, 15, 45, 31]]


@pytest.mark.parametrize(("height", "top"), [(6.0, 13), (5.9, 10)])
def test_a_roi_moves_from_an_iou_of_three_tenths(height, top):
    roi = [20, 10, 40, 10 + height]  # height / 20 of the object
    found, _ = followed([roi], target([6], [OBJECT]), target([6], [MOVED]))
    assert found[0][1] == top


def test_a_roi_moves_with_the_object_it_overlaps_most():
    then = target([6, 2], [OBJECT, [22, 10, 42, 30]])
    now = target([2, 6], [[22, 20, 42, 40], [30, 10, 50, 30]])  # 2 down, 6 to the right
    found, _ = followed([[20, 10, 40, 30], [23, 10, 43, 30]], then, now)
    assert found == [[30, 10, 50, 30], [23, 20, 43, 40]]


def test_rois_stay_whose_track_is_gone_or_unknown():
    rois = [[20, 10, 40, 30], [60, 10, 80, 30]]
    then = target([6, -1], [OBJECT, [60, 10, 80, 30]])
    now = target([5, -1], [MOVED, [70, 10, 90, 30]])
    assert followed(rois, then, now) == (rois, [0, 1])


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (target([]), target([6])),
        (target([6], [OBJECT]), target([])),
        (target([6], [OBJECT], crowds=[0]), target([6], [MOVED])),
        (target([]), target([])),
    ],
)
def test_rois_stay_where_no_object_is_to_be_followed(then, now):
    assert followed([[20, 10, 40, 30]], then, now) == ([[20, 10, 40, 30]], [0])


def test_a_roi_is_clipped_to_the_picture():
    now = target([6], [[-8, 35, 12, 55]])
    found, _ = followed([[22, 12, 42, 30]], target([6], [OBJECT]), now)
    assert found == [[0, 37, 14, 50]]


def test_a_roi_of_which_nothing_is_left_is_dropped_with_its_feature():
    then = target([6, 4], [OBJECT, [60, 10, 80, 30]])
    now = target([4, 6], [[61, 10, 81, 30], [120, 10, 140, 30]])
    rois = [[60, 10, 80, 30], [20, 10, 40, 30], [1, 1, 5, 5]]
    assert followed(rois, then, now) == ([[61, 10, 81, 30], [1, 1, 5, 5]], [0, 2])


def test_no_rois_stay_no_rois():
    assert followed([], target([6], [OBJECT]), target([6], [MOVED])) == ([], [])
