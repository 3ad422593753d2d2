"""Reads and writes CocoVID, the annotation format of mmtracking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vodet.data.annotations.index import UNKNOWN_TRACK, VideoIndex
from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.formats.outline import first_entries
from vodet.data.formats.records import Box, Category, Frame, Records, Video
from vodet.data.formats.writer import (
    DECIMALS,
    FIRST_ANNOTATION,
    JsonTable,
    Summary,
    check_target,
    encode,
)
from vodet.files import replacing


def recognises(source: Path) -> bool:
    """Return whether a file is in CocoVID."""
    tables = first_entries(source)
    return "videos" in tables and "video_id" in tables.get("images", {})


def read_cocovid(source: Path) -> Records:
    """Read a CocoVID file. Track ids are renumbered from 0 in each video.

    Args:
        source: The JSON file.

    Raises:
        DataError: If the file is missing or faulty.
    """
    index = read_st_coco(source)
    categories = [
        Category(int(number), name, name)
        for number, name in zip(index.category_ids, index.class_names, strict=True)
    ]
    videos = (
        Video(index.video_name(video), (_frame(index, row) for row in index.frames_of(video)))
        for video in range(index.num_videos)
    )
    return Records(categories, videos, index.num_frames)


def write_cocovid(
    index: VideoIndex,
    target: Path,
    *,
    overwrite: bool = False,
    on_frame: Callable[[], None] = lambda: None,
) -> Summary:
    """Write a data set to a CocoVID file, which appears only when it is complete.

    As mmtracking requires, ``frame_id`` numbers the frames of each video without gaps, and track
    ids are unique in the whole data set. ``frame_number`` keeps the original frame number. Frames
    that are not annotated are marked, so that mmtracking does not train on them.

    Args:
        index: The data set.
        target: The file to write.
        overwrite: Whether an existing file is replaced.
        on_frame: Called after each frame.

    Returns:
        Counts of what was written.

    Raises:
        ConfigError: If the file exists and may not be replaced.
    """
    check_target(target, overwrite=overwrite)
    summary = Summary(list(index.class_names), videos=index.num_videos, frames=index.num_frames)
    tables: dict[str, Iterator[dict[str, Any]]] = {
        "videos": _videos(index),
        "images": _images(index, on_frame),
        "annotations": _annotations(index, summary),
        "categories": _categories(index),
    }
    with replacing(target) as partial, partial.open("wb") as file:
        for place, (name, entries) in enumerate(tables.items()):
            file.write((b",\n" if place else b"{") + encode(name) + b": [")
            table = JsonTable(file, FIRST_ANNOTATION if name == "annotations" else 0)
            for entry in entries:
                table.append(entry)
            file.write(b"]")
        file.write(b"}\n")
    summary.support_frames = int((~index.is_annotated).sum())
    return summary


def _frame(index: VideoIndex, row: int) -> Frame:
    height, width = index.sizes[row].tolist()
    boxes = [
        Box(label, tuple(xyxy), None if track == UNKNOWN_TRACK else str(track), area, is_ignored)
        for label, xyxy, track, area, is_ignored in _box_rows(index, row)
    ]
    return Frame(
        index.file_name(row),
        int(index.frame_numbers[row]),
        (height, width),
        boxes,
        bool(index.is_annotated[row]),
    )


def _box_rows(index: VideoIndex, row: int) -> Iterator[tuple[Any, ...]]:
    boxes = index.boxes_of(row)
    columns = (index.labels, index.boxes, index.track_ids, index.areas, index.iscrowd)
    return zip(*(column[boxes].tolist() for column in columns), strict=True)


def _videos(index: VideoIndex) -> Iterator[dict[str, Any]]:
    for video in range(index.num_videos):
        height, width = index.sizes[index.video_starts[video]].tolist()
        yield {"name": index.video_name(video), "height": height, "width": width}


def _images(index: VideoIndex, on_frame: Callable[[], None]) -> Iterator[dict[str, Any]]:
    for video in range(index.num_videos):
        for place, row in enumerate(index.frames_of(video)):
            height, width = index.sizes[row].tolist()
            is_annotated = bool(index.is_annotated[row])
            yield {
                "file_name": index.file_name(row),
                "video_id": video,
                "frame_id": place,
                "frame_number": int(index.frame_numbers[row]),
                "height": height,
                "width": width,
                "is_annotated": is_annotated,
                "is_vid_train_frame": is_annotated,
            }
            on_frame()


def _annotations(index: VideoIndex, summary: Summary) -> Iterator[dict[str, Any]]:
    first_track = 0
    for video in range(index.num_videos):
        num_tracks = 0
        for row in index.frames_of(video):
            for label, (left, top, right, bottom), track, area, is_crowd in _box_rows(index, row):
                (summary.ignored if is_crowd else summary.boxes)[label] += 1
                num_tracks = max(num_tracks, track + 1)
                annotation = {
                    "image_id": row,
                    "video_id": video,
                    "category_id": int(index.category_ids[label]),
                    "bbox": [round(v, DECIMALS) for v in (left, top, right - left, bottom - top)],
                    "area": area,
                    "iscrowd": int(is_crowd),
                    "ignore": int(is_crowd),
                }
                if track != UNKNOWN_TRACK:
                    annotation["instance_id"] = first_track + track
                yield annotation
        first_track += num_tracks


def _categories(index: VideoIndex) -> Iterator[dict[str, Any]]:
    for number, name in zip(index.category_ids.tolist(), index.class_names, strict=True):
        yield {"id": number, "name": name, "supercategory": name}
