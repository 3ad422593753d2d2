from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace
from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from vodet.data.annotations.columns import PackedStrings
from vodet.data.annotations.index import BoxRows, FrameRows, VideoIndex
from vodet.errors import DataError
from vodet.structures import GroundTruth, Target

# Video 0 "b" has frames 4, 7; video 1 "a" has frames 0, 2, 9; video 2 has none.
VIDEOS = [1, 0, 1, 0, 1]
NUMBERS = [9, 7, 0, 4, 2]
ORDER = [3, 1, 2, 4, 0]


def box(number: int) -> list[int]:
    return [number, number, number + 10, number + 20]


@pytest.fixture
def index() -> VideoIndex:
    frames = FrameRows(
        videos=np.array(VIDEOS),
        file_names=PackedStrings.pack(
            [f"{v}/{n}.jpg" for v, n in zip(VIDEOS, NUMBERS, strict=True)]
        ),
        image_ids=np.array([50, 40, 30, 20, 10]),
        frame_numbers=np.array(NUMBERS, np.int32),
        sizes=np.array([[100, 200 + row] for row in range(5)], np.int32),
        is_annotated=np.array([True, True, False, True, True]),
    )
    boxes = BoxRows(
        frames=np.array([0, 3, 0, 2, 3]),
        boxes=np.array([box(number) for number in range(5)], np.float32),
        labels=np.array([0, 1, 1, 0, 0]),
        tracks=np.array([8, 8, -1, 5, 3]),
        areas=np.array([1.0, 2.0, 3.0, 4.0, 5.0], np.float32),
        iscrowd=np.array([False, True, False, False, False]),
    )
    attributes = {"a": ["night", "fog"], "b": ["fog"], "z": ["snow"]}  # z has no frames
    return VideoIndex.from_rows(
        "a.json", {3: "cat", -2: "dog"}, ["b", "a", "c"], frames, boxes, attributes
    )


def attributes_of(data: VideoIndex | GroundTruth) -> dict[str, list[int]]:
    """Positions of the videos with each attribute."""
    return {
        name: np.flatnonzero(has_it).tolist()
        for name, has_it in zip(data.attribute_names, data.video_attributes.T, strict=True)
    }


def assert_same_target(target: Target, expected: Target) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(target[name], value, rtol=0, atol=0)


def test_frames_are_ordered_by_video_and_number(index: VideoIndex) -> None:
    assert (index.num_videos, index.num_frames, index.num_boxes) == (3, 5, 5)
    assert index.class_names == ("dog", "cat")
    assert index.category_ids.tolist() == [-2, 3]
    assert [index.video_name(video) for video in range(3)] == ["b", "a", "c"]
    assert [index.frames_of(video) for video in range(3)] == [range(2), range(2, 5), range(5, 5)]
    assert [index.video_of(frame) for frame in range(5)] == [0, 0, 1, 1, 1]
    assert index.frame_numbers.tolist() == [4, 7, 0, 2, 9]
    assert index.image_ids.tolist() == [20, 40, 30, 10, 50]
    assert index.sizes[:, 1].tolist() == [200 + row for row in ORDER]
    assert index.is_annotated.tolist() == [True, True, False, True, True]
    assert index.file_name(4) == "1/9.jpg"
    assert index.file_name(-1) == "1/9.jpg"


def test_boxes_are_ordered_by_frame_and_within_it_as_given(index: VideoIndex) -> None:
    assert index.box_starts.tolist() == [0, 2, 2, 3, 3, 5]
    assert index.boxes[:, 0].tolist() == [1, 4, 3, 0, 2]
    assert index.labels.tolist() == [1, 0, 0, 0, 1]
    assert index.areas.tolist() == [2, 5, 4, 1, 3]
    assert index.iscrowd.tolist() == [True, False, False, False, False]
    assert index.track_ids.tolist() == [1, 0, 0, 1, -1]  # from 0 in each video


def test_attributes_of_videos(index: VideoIndex) -> None:
    assert attributes_of(index) == {"fog": [0, 1], "night": [1]}
    assert attributes_of(index.ground_truth()) == attributes_of(index)
    assert attributes_of(pickle.loads(pickle.dumps(index))) == attributes_of(index)
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(attributes_of, (index,)) == attributes_of(index)
        pool.close()
        pool.join()
    with pytest.raises(ValueError, match="read-only"):
        index.video_attributes[0, 0] = False


def test_target(index: VideoIndex) -> None:
    expected = Target(
        boxes=torch.tensor([box(1), box(4)], dtype=torch.float32),
        labels=torch.tensor([1, 0]),
        track_ids=torch.tensor([1, 0]),
        iscrowd=torch.tensor([True, False]),
    )
    assert_same_target(index.target(0), expected)
    assert_same_target(index.target(np.int64(-5)), expected)
    assert {name: tuple(value.shape) for name, value in index.target(1).items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "track_ids": (0,),
        "iscrowd": (0,),
    }


def test_a_changed_target_leaves_the_index_alone(index: VideoIndex) -> None:
    index.target(0)["boxes"].zero_()
    assert index.boxes[0].tolist() == box(1)


def test_ground_truth_is_of_annotated_frames(index: VideoIndex) -> None:
    truth = index.ground_truth()
    assert truth.class_names == ("dog", "cat")
    assert truth.category_ids.tolist() == [-2, 3]
    assert truth.image_ids.tolist() == [20, 40, 10, 50]
    assert truth.sizes[:, 1].tolist() == [203, 201, 204, 200]
    assert truth.box_starts.tolist() == [0, 2, 2, 2, 4]
    assert truth.boxes[:, 0].tolist() == [1, 4, 0, 2]
    assert (truth.labels.tolist(), truth.labels.dtype) == ([1, 0, 0, 1], np.int64)
    assert truth.areas.tolist() == [2, 5, 1, 3]
    assert truth.videos.tolist() == [0, 0, 1, 1]
    assert truth.frame_numbers.tolist() == [4, 7, 2, 9]
    assert truth.track_ids.tolist() == [1, 0, 1, -1]
    assert truth.frames.tolist() == [0, 0, 3, 3]
    assert truth.iscrowd.tolist() == [True, False, False, False]


def test_rows_outside_raise(index: VideoIndex) -> None:
    for function in (index.target, index.file_name, index.video_of):
        for row in (5, -6):
            with pytest.raises(IndexError):
                function(row)
    with pytest.raises(IndexError):
        index.frames_of(3)


def test_it_is_immutable(index: VideoIndex) -> None:
    with pytest.raises(FrozenInstanceError):
        index.source = "b.json"
    for columns in (index, pickle.loads(pickle.dumps(index))):
        with pytest.raises(ValueError, match="read-only"):
            columns.boxes[0] = 0


def test_columns_that_do_not_fit(index: VideoIndex) -> None:
    expected = "'labels' of the index of a.json should have 5 rows, found 4"
    with pytest.raises(DataError, match=expected):
        replace(index, labels=index.labels[:4])
    with pytest.raises(DataError, match=r"'box_starts' .* should have 6 rows, found 5"):
        replace(index, box_starts=index.box_starts[1:])


def test_size_and_description(index: VideoIndex) -> None:
    assert index.nbytes == sum(
        array.nbytes
        for columns in (index, index.file_names, index.video_names)
        for array in vars(columns).values()
        if isinstance(array, np.ndarray)
    )
    assert repr(index) == "VideoIndex('a.json': 3 videos, 5 frames, 5 boxes of 2 classes)"


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_are_equal(index: VideoIndex, duplicate: object) -> None:
    assert callable(duplicate)
    other = duplicate(index)
    assert (repr(other), list(other.file_names)) == (repr(index), list(index.file_names))
    for frame in range(index.num_frames):
        assert_same_target(other.target(frame), index.target(frame))


def test_sent_to_a_process_it_shares_memory(index: VideoIndex) -> None:
    held_before = index.boxes
    sent = ForkingPickler.loads(ForkingPickler.dumps(index))
    writable = sent.boxes.view()
    writable.flags.writeable = True  # for this test alone
    writable[0] = 77
    assert index.boxes[0].tolist() == [77] * 4
    assert held_before[0].tolist() == box(1)  # whoever held an array keeps what it was
    assert all(t.is_shared() for t in (*index._shared.values(), *sent.file_names._shared.values()))
    assert list(sent.file_names) == list(index.file_names)
    assert {name: t.data_ptr() for name, t in index._shared.items()} == {
        name: getattr(index, name).__array_interface__["data"][0] for name in index._shared
    }
    addresses = [array.data_ptr() for array in index._shared.values()]
    ForkingPickler.dumps(index)  # the second process gets the same memory
    assert [array.data_ptr() for array in index._shared.values()] == addresses


def test_handles_are_small() -> None:
    frames, boxes = 1000, 20_000
    index = VideoIndex.from_rows(
        "a.json",
        {0: "cat"},
        ["a"],
        FrameRows(
            videos=np.zeros(frames, np.int64),
            file_names=PackedStrings.pack([str(frame) for frame in range(frames)]),
            image_ids=np.arange(frames),
            frame_numbers=np.arange(frames, dtype=np.int32),
            sizes=np.ones((frames, 2), np.int32),
            is_annotated=np.ones(frames, np.bool_),
        ),
        BoxRows(
            frames=np.zeros(boxes, np.int64),
            boxes=np.ones((boxes, 4), np.float32),
            labels=np.zeros(boxes, np.int64),
            tracks=np.zeros(boxes, np.int64),
            areas=np.ones(boxes, np.float32),
            iscrowd=np.zeros(boxes, np.bool_),
        ),
    )
    assert index.nbytes > 500_000
    assert len(ForkingPickler.dumps(index)) < 10_000


def test_a_spawned_process_sees_the_same(index: VideoIndex) -> None:
    with get_context("spawn").Pool(1) as pool:
        for frame in range(index.num_frames):
            assert_same_target(pool.apply(VideoIndex.target, (index, frame)), index.target(frame))
            assert pool.apply(VideoIndex.file_name, (index, frame)) == index.file_name(frame)
        pool.close()
        pool.join()
