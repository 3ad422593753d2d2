from __future__ import annotations

import torch

from vodet.boxes import box_areas, clip_boxes, mirror_boxes, rescale_boxes


def test_clip() -> None:
    boxes = torch.tensor([[-5.0, 2, 8, 30], [1, 2, 3, 4], [25, 15, 30, 18], [-9, -9, -1, -1]])
    assert clip_boxes(boxes, (10, 20)).tolist() == [
        [0, 2, 8, 10],
        [1, 2, 3, 4],
        [20, 10, 20, 10],
        [0, 0, 0, 0],
    ]


def test_rescale_takes_each_axis_by_itself() -> None:
    boxes = torch.tensor([[2.0, 3, 10, 9]])
    assert rescale_boxes(boxes, (30, 20), (10, 40)).tolist() == [[4, 1, 20, 3]]


def test_areas() -> None:
    boxes = torch.tensor([[1.0, 2, 4, 7], [3, 3, 3, 9], [5, 5, 2, 9]])
    assert box_areas(boxes).tolist() == [15, 0, 0]


def test_no_boxes() -> None:
    none = torch.zeros(0, 4)
    assert clip_boxes(none, (10, 20)).shape == (0, 4)
    assert rescale_boxes(none, (30, 20), (10, 40)).shape == (0, 4)
    assert box_areas(none).shape == (0,)


def test_a_mirrored_box_is_as_far_from_the_other_edge() -> None:
    boxes = torch.tensor([[0.0, 1.0, 10.0, 7.0], [60.0, 2.0, 64.0, 3.0]])
    expected = torch.tensor([[54.0, 1.0, 64.0, 7.0], [0.0, 2.0, 4.0, 3.0]])
    assert torch.equal(mirror_boxes(boxes, 64), expected)
    assert torch.equal(mirror_boxes(expected, 64), boxes)
