from __future__ import annotations

import pytest
import torch

from vodet.heads.matching import BACKGROUND, IGNORED, Assigner
from vodet.structures import Target

RPN = Assigner(
    0.7, 0.3, batch_size_per_image=256, positive_fraction=0.5, allow_low_quality_matches=True
)
ROI = Assigner(0.5, 0.5, batch_size_per_image=512, positive_fraction=0.25)


def target(boxes, iscrowd=None) -> Target:
    count = len(boxes)
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        labels=torch.zeros(count, dtype=torch.int64),
        track_ids=torch.full((count,), -1),
        iscrowd=torch.tensor(iscrowd or [False] * count, dtype=torch.bool),
    )


def slices(*heights) -> torch.Tensor:
    """Upper parts of the box (0, 0, 10, 10), whose IoU with it is a tenth of the height."""
    return torch.tensor([[0.0, 0, 10, height] for height in heights])


def test_boxes_are_objects_or_background_by_their_iou():
    found = ROI.assign(slices(10, 6, 5, 4), target([[0, 0, 10, 10]]))
    assert found.tolist() == [0, 0, 0, BACKGROUND]


def test_boxes_between_the_limits_are_ignored():
    found = RPN.assign(slices(10, 8, 6, 4, 2), target([[0, 0, 10, 10]]))
    assert found.tolist() == [0, 0, IGNORED, IGNORED, BACKGROUND]


def test_a_box_stands_for_the_object_with_the_highest_iou():
    objects = target([[0, 0, 10, 10], [0, 0, 10, 7], [50, 50, 60, 60]])
    assert ROI.assign(slices(10, 7, 6), objects).tolist() == [0, 1, 1]


def test_the_best_boxes_of_an_object_stand_for_it_at_whatever_iou():
    lower = torch.tensor([[0.0, 8, 10, 10]])
    boxes = torch.cat((slices(2, 1), lower))
    objects = target([[0, 0, 10, 10]])
    assert RPN.assign(boxes, objects).tolist() == [0, BACKGROUND, 0]
    assert ROI.assign(boxes, objects).tolist() == [BACKGROUND] * 3


def test_rows_are_counted_with_the_crowds():
    objects = target([[90, 90, 99, 99], [0, 0, 10, 10]], [True, False])
    assert ROI.assign(slices(10, 1), objects).tolist() == [1, BACKGROUND]


def test_without_objects_all_is_background():
    assert ROI.assign(slices(10, 1), target([])).tolist() == [BACKGROUND] * 2
    assert RPN.assign(torch.zeros(0, 4), target([])).tolist() == []


def test_background_is_ignored_where_a_crowd_covers_half_of_it():
    crowd = target([[0, 0, 10, 5]], [True])
    found = ROI.assign(slices(4, 9.9, 10, 10.1, 20), crowd)
    assert found.tolist() == [IGNORED, IGNORED, IGNORED, BACKGROUND, BACKGROUND]


def test_crowds_do_not_add_up():
    crowds = target([[0, 0, 10, 4], [0, 6, 10, 10]], [True, True])
    assert ROI.assign(slices(10), crowds).tolist() == [BACKGROUND]


def test_no_box_stands_for_a_crowd_but_objects_in_it_are_found():
    objects = target([[0, 0, 10, 10], [0, 0, 10, 5]], [True, False])
    assert ROI.assign(slices(10, 5, 1), objects).tolist() == [1, 1, IGNORED]


def test_a_box_without_extent_is_background():
    objects = target([[0, 0, 10, 10], [0, 0, 10, 5]], [True, False])
    assert ROI.assign(torch.tensor([[3.0, 3, 3, 3]]), objects).tolist() == [BACKGROUND]


@pytest.mark.parametrize(
    ("objects", "background", "expected"),
    [
        (1000, 1000, (128, 384)),
        (10, 1000, (10, 502)),
        (1000, 20, (128, 20)),
        (0, 1000, (0, 512)),
        (5, 6, (5, 6)),
        (0, 0, (0, 0)),
    ],
)
def test_a_quarter_of_the_samples_are_objects_at_most(objects, background, expected):
    matched = torch.tensor([3] * objects + [BACKGROUND] * background + [IGNORED] * 50)
    matched = matched[torch.randperm(len(matched))]
    positive, negative = ROI.draw(matched)
    assert (int(positive.sum()), int(negative.sum())) == expected
    assert (matched[positive] == 3).all()
    assert (matched[negative] == BACKGROUND).all()


def test_every_draw_is_another():
    matched = torch.tensor([0] * 1000 + [BACKGROUND] * 1000)
    (positive, negative), (again, negative_again) = ROI.draw(matched), ROI.draw(matched)
    assert not torch.equal(positive, again)
    assert not torch.equal(negative, negative_again)
