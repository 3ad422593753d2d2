from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from rich.console import Console

from data.annotations.random_document import random_document
from vodet.data.annotations.columns import PackedStrings
from vodet.data.annotations.index import BoxRows, FrameRows, VideoIndex
from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.annotations.statistics import (
    SHOWN_SIZES,
    Spread,
    compute_statistics,
    oddities,
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


def test_names_are_data(index: VideoIndex) -> None:
    hostile = "[/red]\x1b[31m:car:"
    text = render(replace(index, source=hostile, class_names=(hostile, "b", "c")))
    assert text.count(r"[/red]\x1b[31m:car:") == 2
    assert "\x1b" not in text


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


def test_random_file_counted_one_by_one(tmp_path: Path) -> None:
    document = random_document(0)
    path = tmp_path / "random.json"
    path.write_text(json.dumps(document))
    numbers = compute_statistics(read_st_coco(path))

    images = {image["id"]: image for image in document["images"]}
    is_ignored = [bool(row["iscrowd"] or row["ignore"]) for row in document["annotations"]]
    objects = [
        row for row, ignored in zip(document["annotations"], is_ignored, strict=True) if not ignored
    ]
    names = {category["id"]: category["name"] for category in document["categories"]}
    tracks = Counter((images[row["image_id"]]["video"], row["id_track"]) for row in objects)
    sides = [math.sqrt(row["bbox"][2] * row["bbox"][3]) for row in objects]
    assert (numbers.videos, numbers.frames) == (5, len(images))
    assert (numbers.boxes, numbers.crowds) == (len(objects), sum(is_ignored))
    assert numbers.boxes_per_class == Counter(names[row["category_id"]] for row in objects)
    assert numbers.frame_sizes == Counter((i["height"], i["width"]) for i in images.values())
    assert numbers.tracks == len(tracks)
    assert numbers.track_lengths == spread(tracks.values())
    assert astuple(numbers.box_sizes) == pytest.approx(astuple(spread(sides)), rel=1e-6)
    lengths = Counter(image["video"] for image in images.values())
    assert numbers.video_lengths == spread(lengths.values())


def spread(values: Iterable[float]) -> Spread:
    ordered = sorted(values)
    return Spread(float(ordered[0]), float(median(ordered)), float(ordered[-1]))


def test_frames_of_several_sizes_and_names_of_windows_are_oddities(tmp_path):
    def index_of(sizes, names):
        images = [
            {"id": n, "video": "ab"[n // 2], "frame_number": n, "file_name": name}
            | {"height": size[0], "width": size[1]}
            for n, (size, name) in enumerate(zip(sizes, names, strict=True))
        ]
        document = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]}
        path = tmp_path / "a.json"
        path.write_text(json.dumps(document))
        return read_st_coco(path)

    good = ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert oddities(index_of([(4, 6), (4, 6), (8, 6), (8, 6)], good)) == []
    (mixed,) = oddities(index_of([(4, 6), (4, 6), (8, 6), (6, 8)], good))
    for fact in ("1 of 2 videos", "'b'", "frame 2 ('2.jpg') is 8 x 6", "frame 3 ('3.jpg')"):
        assert fact in mixed
    (names,) = oddities(index_of([(4, 6)] * 4, ["a/0.jpg", r"a\1.jpg", r"a\2.jpg", "3.jpg"]))
    assert "2 of 4" in names
    assert r"'a\\1.jpg'" in names


def test_boxes_outside_and_tracks_that_are_several_objects_are_oddities(tmp_path):
    def index_of(*annotations):
        images = [
            {"id": n, "video": "v", "frame_number": n, "file_name": f"{n}.jpg"}
            | {"height": 20, "width": 40}
            for n in range(3)
        ]
        boxes = [
            {"id": n, "category_id": 1, "image_id": frame, "bbox": bbox, "id_track": track} | more
            for n, (frame, bbox, track, more) in enumerate(annotations)
        ]
        document = {"images": images, "annotations": boxes}
        path = tmp_path / "a.json"
        path.write_text(json.dumps(document | {"categories": [{"id": 1, "name": "x"}]}))
        return read_st_coco(path)

    inside, crowd = [30, 5, 20, 20], {"iscrowd": 1}
    good = [(0, inside, 5, {}), (1, inside, 5, {}), (0, inside, 6, {}), (0, inside, 5, crowd)]
    assert oddities(index_of(*good)) == []
    (outside,) = oddities(index_of(*good, (1, [5, 20, 9, 9], 7, {}), (2, [-9, 1, 9, 9], 7, {})))
    for fact in ("2 of 6 boxes", "'1.jpg'"):
        assert fact in outside
    (repeated,) = oddities(index_of(*good, (1, inside, 5, {}), (1, inside, 5, {})))
    for fact in ("1 of 3 frames", "'1.jpg'"):
        assert fact in repeated
