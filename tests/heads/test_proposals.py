from __future__ import annotations

import math

import pytest
import torch

from vodet.heads.matching import Assigner
from vodet.heads.proposals import Tubelets, complete_tubelets, draw_sample, key_proposals, padded
from vodet.structures import Target

ROI = Assigner(0.5, 0.5, batch_size_per_image=512, positive_fraction=0.25)
INF, BACKGROUND = math.inf, 9  # of nine classes
OBJECTS = {1: [0.0, 0, 10, 10], 2: [50.0, 0, 60, 10], 3: [80.0, 0, 90, 10]}
FAR = [200.0, 200, 220, 220]


def target(*tracks, crowds=(), known=True) -> Target:
    """Objects by track; the label of each is its track too."""
    return Target(
        boxes=torch.tensor([OBJECTS[t] for t in tracks]).view(-1, 4),
        labels=torch.tensor(tracks, dtype=torch.int64),
        track_ids=torch.tensor(tracks if known else [-1] * len(tracks), dtype=torch.int64),
        iscrowd=torch.tensor([t in crowds for t in tracks], dtype=torch.bool),
    )


def proposals(boxes, frames: int = 1) -> Tubelets:
    """Proposals that lie lower by 100 in each frame after the first."""
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4).expand(frames, -1, 4)
    down = 100.0 * torch.arange(frames).view(-1, 1, 1) * torch.tensor([0.0, 1, 0, 1])
    return Tubelets(boxes + down, -torch.arange(boxes.shape[1], dtype=torch.float32))


def draw(tubelets, targets, reference=0, assigner=ROI):
    return draw_sample(tubelets, targets, reference, BACKGROUND, assigner)


@pytest.mark.parametrize(
    ("objects", "background", "expected"), [(300, 600, (128, 384)), (20, 600, (21, 491))]
)
def test_a_quarter_of_512_rois_are_objects_at_most(objects, background, expected):
    sample = draw(proposals([OBJECTS[1]] * objects + [FAR] * background), [target(1)])
    is_object = sample.labels == 1
    assert (int(is_object.sum()), int((sample.labels == BACKGROUND).sum())) == expected
    boxes, near = sample.tubelets.boxes[0], torch.tensor(OBJECTS[1])
    assert torch.equal(boxes, torch.where(is_object[:, None], near, torch.tensor(FAR)))
    assert torch.equal(sample.objects, near * is_object[:, None])


def test_annotated_tubelets_are_sampled_in_all_frames():
    later = target(2, 1) | {"boxes": target(2, 1)["boxes"] + 7}
    sample = draw(proposals([FAR], frames=2), [target(1, 2), later], reference=1)
    assert sample.labels.tolist() == [BACKGROUND, 2, 1]
    assert torch.equal(sample.tubelets.boxes[0, 1:], target(2, 1)["boxes"])
    assert torch.equal(sample.tubelets.boxes[1, 1:], later["boxes"])
    assert torch.equal(sample.objects[1:], later["boxes"])
    assert sample.tubelets.scores.tolist() == [0, INF, INF]


def test_a_track_that_comes_or_goes_has_no_tubelet_but_labels_proposals():
    tubelets = proposals([OBJECTS[2], FAR], frames=3)
    sample = draw(tubelets, [target(1, 2, 3), target(1, 3), target(1, 2)], reference=0)
    assert sample.labels.tolist() == [2, BACKGROUND, 1]
    assert torch.equal(sample.tubelets.boxes[:, :2], tubelets.boxes)
    assert sample.objects[0].tolist() == OBJECTS[2]


def test_a_window_where_no_track_stays_is_kept():
    sample = draw(proposals([FAR], frames=2), [target(1), target(2)])
    assert sample.labels.tolist() == [BACKGROUND]


def test_the_reference_frame_alone_decides_on_labels():
    tubelets = proposals([OBJECTS[1]], frames=2)  # far from everything in frame 1
    assert draw(tubelets, [target(1), target()]).labels.tolist() == [1]
    assert draw(tubelets, [target(1), target()], reference=1).labels.tolist() == [BACKGROUND]


@pytest.mark.parametrize(("frames", "expected"), [(1, [3, BACKGROUND, 3, 2]), (2, [3, BACKGROUND])])
def test_objects_without_track_ids_are_tubelets_of_a_single_frame_only(frames, expected):
    targets = [target(3, 2, known=False)] * frames
    assert draw(proposals([OBJECTS[3], FAR], frames), targets).labels.tolist() == expected


def test_proposals_in_a_crowd_are_not_sampled_nor_is_the_crowd():
    sample = draw(proposals([OBJECTS[2], OBJECTS[1], FAR]), [target(2, 1, crowds=[2])])
    assert sample.labels.tolist() == [1, BACKGROUND, 1]
    assert sample.tubelets.scores.tolist() == [-1, -2, INF]


def test_a_frame_of_unknown_objects_leaves_the_reference_frame_its_labels():
    sample = draw(proposals([OBJECTS[1], FAR], 2), [None, target(1)], reference=1)
    assert sample.labels.tolist() == [BACKGROUND] * 2  # both lie lower in frame 1
    sample = draw(proposals([OBJECTS[1], FAR], 2), [target(1), None])
    assert sample.labels.tolist() == [1, BACKGROUND]


def test_where_the_objects_of_the_reference_frame_are_not_known_nothing_is_drawn():
    sample = draw(proposals([OBJECTS[1], FAR], 2), [target(1), None], reference=1)
    assert sample.labels.tolist() == []
    assert sample.labels.dtype == torch.int64
    assert sample.tubelets.boxes.shape == (2, 0, 4)
    assert sample.tubelets.scores.shape == (0,)
    assert sample.objects.shape == (0, 4)


@pytest.mark.parametrize("frames", [1, 3])
def test_without_objects_proposals_are_background(frames):
    sample = draw(proposals([OBJECTS[1], FAR], frames), [target()] * frames)
    assert sample.labels.tolist() == [BACKGROUND] * 2
    assert not sample.objects.any()


def test_without_proposals_the_objects_are_sampled():
    assert draw(proposals([]), [target(2, 3)]).labels.tolist() == [2, 3]
    assert draw(proposals([]), [target()]).labels.tolist() == []


def test_without_proposals_and_complete_tracks_nothing_is_sampled():
    sample = draw(proposals([], frames=2), [target(1), target(2)])
    assert sample.labels.tolist() == []
    assert sample.tubelets.boxes.shape == (2, 0, 4)


def test_key_proposals_end_with_annotated_tubelets():
    tubelets, targets = proposals([FAR] * 8, frames=2), [target(1, 2), target(2, 3, 1)]
    found = key_proposals(tubelets, targets, 0, 5)
    assert found.scores.tolist() == [0, -1, -2, INF, INF]
    assert torch.equal(found.boxes[:, :3], tubelets.boxes[:, :3])
    assert torch.equal(found.boxes[:, 3:], target(1, 2)["boxes"].expand(2, 2, 4))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(2, [INF] * 2), (3, [INF] * 3), (4, [0] + [INF] * 3), (9, [0, -1] + [INF] * 3)],
)
def test_key_proposals_are_no_more_than_asked_for(count, expected):
    found = key_proposals(proposals([FAR] * 2), [target(1, 2, 3)], 0, count)
    assert found.scores.tolist() == expected


@pytest.mark.parametrize("targets", [[None, None], [target(1), None], [target(1), target(2)]])
def test_key_proposals_without_annotated_tubelets_are_the_best(targets):
    found = key_proposals(proposals([FAR] * 8, frames=2), targets, 0, 3)
    assert found.scores.tolist() == [0, -1, -2]


def test_tubelets_are_padded_to_one_number():
    items = [proposals([FAR], 2), proposals([FAR, OBJECTS[1], OBJECTS[2]], 2), proposals([], 2)]
    found = padded(items)
    boxes, scores, is_valid = found.boxes, found.scores, found.is_valid
    assert is_valid.tolist() == [[True, False, False], [True] * 3, [False] * 3]
    assert boxes.shape == (3, 2, 3, 4)
    for item, own, logits, valid in zip(items, boxes, scores, is_valid, strict=True):
        assert torch.equal(own[:, valid], item.boxes)
        assert torch.equal(logits[valid], item.scores)
        assert not own[:, ~valid].any()
        assert not logits[~valid].any()


def test_no_tubelets_at_all_are_padded_to_one():
    found = padded([proposals([], 2)] * 2)
    assert (found.boxes.shape, found.scores.shape) == ((2, 2, 1, 4), (2, 1))
    assert found.is_valid.tolist() == [[False], [False]]


def test_padded_tubelets_are_found_again():
    items = [proposals([FAR], 2), proposals([FAR, OBJECTS[1], OBJECTS[2]], 2), proposals([], 2)]
    for found, item in zip(Tubelets.of(padded(items)), items, strict=True):
        assert torch.equal(found.boxes, item.boxes)
        assert torch.equal(found.scores, item.scores)


def tracked(tracks, crowds=()) -> Target:
    """Objects by track; object t lies at (t, t, t + 10, t + 10)."""
    boxes = [[t, t, t + 10, t + 10] for t in tracks]
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
    frames = [tracked([7, 3, 5]), moved(tracked([5, 7]), 0.5), moved(tracked([1, 7, 5, 9]), 0.25)]
    assert lefts(complete_tubelets(frames, 0)) == [[7, 5], [7.5, 5.5], [7.25, 5.25]]
    assert lefts(complete_tubelets(frames, 1)) == [[5, 7], [5.5, 7.5], [5.25, 7.25]]
    whole = complete_tubelets(frames, 2)[:, 1]
    assert whole.tolist() == [[5, 5, 15, 15], [5.5, 5.5, 15.5, 15.5], [5.25, 5.25, 15.25, 15.25]]


def test_objects_without_a_track_are_tubelets_only_of_a_single_frame():
    frame = tracked([-1, 4, -1])
    assert lefts(complete_tubelets([frame], 0)) == [[-1, 4, -1]]
    assert lefts(complete_tubelets([frame, frame], 0)) == [[4], [4]]


def test_crowds_are_no_tubelets():
    frame = tracked([2, 3, 4], crowds=[1])
    assert lefts(complete_tubelets([frame], 0)) == [[2, 4]]
    assert lefts(complete_tubelets([frame, tracked([2, 3, 4])], 1)) == [[2, 4], [2, 4]]
    assert lefts(complete_tubelets([frame, tracked([2, 3, 4])], 0)) == [[2, 4], [2, 4]]


@pytest.mark.parametrize("unknown", [0, 1, 2])
def test_a_window_with_a_frame_of_unknown_objects_has_no_tubelets(unknown):
    frames = [None if place == unknown else tracked([1, 2]) for place in range(3)]
    assert complete_tubelets(frames, 1).shape == (3, 0, 4)


def test_a_window_of_unknown_frames_has_no_tubelets():
    assert complete_tubelets([None], 0).shape == (1, 0, 4)


@pytest.mark.parametrize("length", [1, 3])
def test_a_window_without_objects_has_no_tubelets(length):
    assert complete_tubelets([tracked([])] * length, 0).shape == (length, 0, 4)


def test_a_window_with_objects_in_some_frames_only_has_no_tubelets():
    frames = [tracked([]), tracked([1, 2]), tracked([])]
    assert complete_tubelets(frames, 0).shape == (3, 0, 4)
    assert complete_tubelets(frames, 1).shape == (3, 0, 4)
