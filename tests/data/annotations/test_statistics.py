from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vodet.data.annotations.columns import PackedStrings
from vodet.data.annotations.index import BoxRows, FrameRows, VideoIndex
from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.annotations.statistics import (
    SHOWN_SIZES,
    Spread,
    compute_statistics,
    statistics_table,
)


@pytest.fixture
def index() -> VideoIndex:
    # Track 0 of video 0 and track 0 of video 1 are two objects; the last box is a crowd.
    frames = FrameRows(
        videos=np.array([0, 0, 0, 1]),
        file_names=PackedStrings.pack(["a", "b", "c", "d"]),
        image_ids=np.arange(4),
        frame_numbers=np.arange(4, dtype=np.int32),
        sizes=np.array([[10, 20], [10, 20], [10, 20], [30, 40]], np.int32),
        is_annotated=np.array([True, True, False, True]),
    )
    boxes = BoxRows(
        frames=np.array([0, 0, 3, 0, 2, 3]),
        boxes=np.float32([[0, 0, *wh] for wh in ((2, 8), (3, 3), (4, 9), (5, 5), (1, 1), (9, 9))]),
        labels=np.array([0, 0, 1, 0, 1, 0]),
        tracks=np.array([0, 1, 0, -1, 0, 1]),
        areas=np.ones(6, np.float32),
        iscrowd=np.array([False, False, False, False, False, True]),
    )  # fmt: skip
    categories = {0: "cat", 1: "dog", 2: "owl"}
    return VideoIndex.from_rows("a.json", categories, ["x", "y"], frames, boxes, {"y": ["night"]})


def test_hand_counted(index: VideoIndex) -> None:
    numbers = compute_statistics(index)
    assert (numbers.videos, numbers.frames) == (2, 4)
    assert (numbers.annotated_frames, numbers.empty_frames) == (3, 1)
    assert (numbers.boxes, numbers.crowds) == (5, 1)
    assert numbers.boxes_per_class == {"cat": 3, "dog": 2, "owl": 0}
    assert list(numbers.frame_sizes.items()) == [((10, 20), 3), ((30, 40), 1)]
    assert numbers.video_lengths == Spread(1.0, 2.0, 3.0)
    assert numbers.box_sizes == Spread(1.0, 4.0, 6.0)
    assert numbers.tracks == 3
    assert numbers.track_lengths == Spread(1.0, 1.0, 2.0)


def test_without_boxes(index: VideoIndex) -> None:
    none = np.zeros(0, np.int64)
    empty = VideoIndex.from_rows(
        "a.json",
        {0: "cat"},
        ["x"],
        FrameRows(
            videos=np.array([0]),
            file_names=PackedStrings.pack(["a"]),
            image_ids=np.array([0]),
            frame_numbers=np.array([0], np.int32),
            sizes=np.array([[10, 20]], np.int32),
            is_annotated=np.array([True]),
        ),
        BoxRows(none, np.zeros((0, 4), np.float32), none, none, none.astype(np.float32), none > 0),
    )
    numbers = compute_statistics(empty)
    assert (numbers.boxes, numbers.empty_frames, numbers.tracks) == (0, 1, 0)
    assert (numbers.box_sizes, numbers.track_lengths) == (None, None)
    assert "boxes per track" in render(empty)


def render(index: VideoIndex) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(statistics_table(index))
    text = console.file.getvalue()
    return " ".join(text.replace("│", " ").split())


def test_table(index: VideoIndex) -> None:
    text = render(index)
    for line in (
        "a.json",
        "videos 2",
        "annotated frames 3 (1 empty)",
        "frames per video 1 / 2 / 3",
        "frames of 20 x 10 3",
        "crowds and ignore regions 1",
        "tracks 3",
        "boxes per track 1 / 1 / 2",
        "boxes of 'owl' 0",
        "videos with 'night' 1",
    ):
        assert line in text


def test_many_frame_sizes_are_summed_up() -> None:
    count = SHOWN_SIZES + 3
    none = np.zeros(0, np.int64)
    index = VideoIndex.from_rows(
        "a.json",
        {0: "cat"},
        ["x"],
        FrameRows(
            videos=np.zeros(count, np.int64),
            file_names=PackedStrings.pack(["a"] * count),
            image_ids=np.arange(count),
            frame_numbers=np.arange(count, dtype=np.int32),
            sizes=np.array([[10, 20 + i] for i in range(count)], np.int32),
            is_annotated=np.ones(count, np.bool_),
        ),
        BoxRows(none, np.zeros((0, 4), np.float32), none, none, none.astype(np.float32), none > 0),
    )
    assert "frames of 3 other sizes 3" in render(index)


def test_real_file(shared: Path) -> None:
    path = shared / "sample" / "stcoco" / "mot17_04_with_ignore.json"
    numbers = compute_statistics(read_st_coco(path))
    assert (numbers.boxes, numbers.crowds, numbers.tracks) == (336, 32, 42)
    assert numbers.frame_sizes == {(1080, 1920): 8}
