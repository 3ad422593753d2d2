"""Reads ST-COCO: COCO detection JSON with video fields; CocoVID's field names are accepted too.

`st_coco_tables` checks single entries, such as the type of a field. This module checks rules that
involve several entries, such as unique ids, while it turns the tables into arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, Int, Int64

from vodet.data.annotations.columns import PackedStrings
from vodet.data.annotations.faults import Faults
from vodet.data.annotations.index import UNKNOWN_TRACK, BoxRows, FrameRows, VideoIndex
from vodet.data.annotations.st_coco_tables import (
    AnnotationEntry,
    CategoryEntry,
    FaultyFile,
    ImageEntry,
    Table,
    TypedFile,
    VideoEntry,
)
from vodet.json_files import UNDECODABLE, check_tables, read_json

MAX_CLASSES = int(np.iinfo(np.int16).max)  # the index keeps labels in 16 bits


def read_st_coco(path: str | Path) -> VideoIndex:
    """Read an ST-COCO file, ``.json`` or ``.json.gz``.

    Images may be in any order, unknown fields are ignored, and CocoVID's field names are accepted
    (``videos``, ``video_id``, ``frame_id``, ``instance_id``). An entry of ``videos`` may have the
    field ``attributes``, a list of strings.

    Args:
        path: The file.

    Raises:
        DataError: If the file is missing, is not JSON or has faulty entries. The message counts the
            faults of each kind, and shows for the first ten of each kind the entry, the field, and
            what was expected and found.
    """
    source = Path(path)
    data = read_json(source, "an ST-COCO file (.json or .json.gz)")
    check_tables(data, source)
    try:
        return _build(TypedFile(data), Faults(source))
    except UNDECODABLE:
        faults = Faults(source)
        return _build(FaultyFile(data, faults), faults)


def _build(file: TypedFile | FaultyFile, faults: Faults) -> VideoIndex:
    videos = file.read("videos", VideoEntry)
    name_of_video = _read_videos(videos, faults)
    categories, category_ids = _read_categories(file.read("categories", CategoryEntry), faults)
    video_names, frames, image_ids = _read_frames(
        file.read("images", ImageEntry), name_of_video, faults
    )
    boxes = _read_boxes(file.read("annotations", AnnotationEntry), image_ids, category_ids, faults)
    faults.raise_if_any()
    attributes = {video.name: video.attributes or () for video in videos.entries}
    return VideoIndex.from_rows(
        str(faults.source), categories, video_names, frames, boxes, attributes
    )


@dataclass(frozen=True)
class _Ids:
    """The ids of a table such as ``images``, to which other tables refer by ``image_id``.

    Args:
        table: Name of the table.
        readable: Ids of the entries that could be decoded.
        unreadable: Ids of the other entries; referring to one of these ids is not a further fault.
    """

    table: str
    readable: Int64[np.ndarray, " n"]
    unreadable: frozenset[object]

    def rows_of(
        self, table: Table[Any], field: str, faults: Faults
    ) -> Int64[np.ndarray, " entries"]:
        """Return the position in ``readable`` of the id that each entry has in ``field``.

        An id that does not exist is recorded as a fault.
        """
        wanted = table.column(field)
        for row in np.flatnonzero(~np.isin(wanted, self.readable)).tolist():
            if int(wanted[row]) not in self.unreadable:
                expected = f"an id that is in `{self.table}`"
                faults.add(f"{table.place(row)}.{field}", expected, str(wanted[row]))
        order = np.argsort(self.readable, kind="stable")
        rows = np.append(order, 0)  # row 0 for an unknown id larger than all known ids
        return rows[np.searchsorted(self.readable, wanted, sorter=order)]


def _read_videos(table: Table[VideoEntry], faults: Faults) -> dict[object, str]:
    """Return the video names by video id."""
    ids = [video.id for video in table.entries]
    names = [video.name for video in table.entries]
    _check_unique(table, "id", _number(ids)[0], lambda row: repr(ids[row]), faults)
    _check_unique(table, "name", _number(names)[0], lambda row: repr(names[row]), faults)
    unreadable = {video: str(video) for video in table.unreadable_ids}
    return unreadable | dict(zip(ids, names, strict=True))


def _read_categories(table: Table[CategoryEntry], faults: Faults) -> tuple[dict[int, str], _Ids]:
    """Return the class names by category id, and the category ids in ascending order."""
    if not 1 <= table.size <= MAX_CLASSES:
        faults.add(table.name, f"1 to {MAX_CLASSES} entries", str(table.size))
    ids = table.column("id")
    names = [category.name for category in table.entries]
    _check_unique(table, "id", ids, lambda row: str(ids[row]), faults)
    _check_unique(table, "name", _number(names)[0], lambda row: repr(names[row]), faults)
    categories = dict(zip(ids.tolist(), names, strict=True))
    return categories, _Ids(table.name, np.sort(ids), frozenset(table.unreadable_ids))


def _read_frames(
    table: Table[ImageEntry], name_of_video: dict[object, str], faults: Faults
) -> tuple[list[str], FrameRows, _Ids]:
    """Return the names of the videos, the frames, and the ids in the table ``images``."""
    if not table.size:
        faults.add(table.name, "at least 1 entry", "0")
    videos, names = _number(_video_names(table, name_of_video, faults))
    numbers = table.column("frame_number", np.int32)
    frames = FrameRows(
        videos=videos,
        file_names=PackedStrings.pack([image.file_name for image in table.entries]),
        image_ids=table.column("id"),
        frame_numbers=numbers,
        sizes=np.stack([table.column("height", np.int32), table.column("width", np.int32)], axis=1),
        is_annotated=table.column("is_annotated", np.bool_),
    )
    _check_unique(table, "id", frames.image_ids, lambda row: str(frames.image_ids[row]), faults)
    _check_unique(
        table,
        "frame_number",
        videos * 2**32 + numbers,
        lambda row: f"{numbers[row]} of video {names[videos[row]]!r}",
        faults,
    )
    return names, frames, _Ids(table.name, frames.image_ids, frozenset(table.unreadable_ids))


def _video_names(
    table: Table[ImageEntry], name_of_video: dict[object, str], faults: Faults
) -> Iterator[str]:
    for row, image in enumerate(table.entries):
        if image.video is not None:
            yield image.video
        else:
            if image.video_id not in name_of_video:
                expected = "an id that is in `videos`"
                faults.add(f"{table.place(row)}.video_id", expected, repr(image.video_id))
            yield name_of_video.get(image.video_id, str(image.video_id))


def _read_boxes(
    table: Table[AnnotationEntry], image_ids: _Ids, category_ids: _Ids, faults: Faults
) -> BoxRows:
    """Return the boxes, with classes labelled in ascending order of category id."""
    ids = table.column("id")
    _check_unique(table, "id", ids, lambda row: str(ids[row]), faults)
    boxes, areas = _boxes(table, faults)
    return BoxRows(
        frames=image_ids.rows_of(table, "image_id", faults),
        boxes=boxes,
        labels=category_ids.rows_of(table, "category_id", faults),
        tracks=_tracks(table.entries),
        areas=areas,
        iscrowd=table.column("iscrowd", np.bool_) | table.column("ignore", np.bool_),
    )


def _boxes(
    table: Table[AnnotationEntry], faults: Faults
) -> tuple[Float32[np.ndarray, "n 4"], Float32[np.ndarray, " n"]]:
    """Return boxes as xyxy, and their annotated areas or, if missing, width times height."""
    entries = table.entries
    numbers = chain.from_iterable(map(attrgetter("bbox"), entries))
    xywh = np.fromiter(numbers, np.float64, 4 * len(entries)).reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):  # reported as faults below
        boxes = np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]).astype(np.float32)
        areas = (xywh[:, 2] * xywh[:, 3]).astype(np.float32)
    is_finite = np.isfinite(boxes).all(axis=1)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    for expected, is_faulty in (
        ("finite numbers", ~is_finite),
        ("width and height above 0", is_finite & ~has_area),
    ):
        for row in np.flatnonzero(is_faulty).tolist():
            faults.add(f"{table.place(row)}.bbox", expected, str(list(entries[row].bbox)))
    annotated = (np.nan if entry.area is None else entry.area for entry in entries)
    annotated_areas = np.fromiter(annotated, np.float32, len(entries))
    return boxes, np.where(np.isnan(annotated_areas), areas, annotated_areas)


def _tracks(entries: list[AnnotationEntry]) -> Int64[np.ndarray, " n"]:
    """Return a number for the track id of each entry, or -1 for an entry without a track id.

    Equal track ids get equal numbers. In different videos, equal numbers mean different objects.
    """
    tracks = [entry.instance_id if entry.id_track is None else entry.id_track for entry in entries]
    numbers, distinct = _number(None if track is None else str(track) for track in tracks)
    if None in distinct:
        numbers[numbers == distinct.index(None)] = UNKNOWN_TRACK
    return numbers


Value = TypeVar("Value", bound=Hashable)


def _number(values: Iterable[Value]) -> tuple[Int64[np.ndarray, " n"], list[Value]]:
    """Number values in order of first appearance; return all numbers and the distinct values."""
    numbers: dict[Value, int] = {}
    rows = np.fromiter((numbers.setdefault(value, len(numbers)) for value in values), np.int64)
    return rows, list(numbers)


def _check_unique(
    table: Table[Any],
    field: str,
    keys: Int[np.ndarray, " n"],
    describe: Callable[[int], str],
    faults: Faults,
) -> None:
    """Record a fault for each entry whose key equals the key of an earlier entry.

    Args:
        table: The entries.
        field: The field that the key is made from, for the message.
        keys: Key of each entry.
        describe: Returns the text that shows the key of an entry in the message.
        faults: Where the faults are recorded.
    """
    order = np.argsort(keys, kind="stable")
    repeats = np.flatnonzero(np.diff(keys[order]) == 0)
    for earlier, row in zip(order[repeats].tolist(), order[repeats + 1].tolist(), strict=True):
        found = f"{describe(row)}, as in {table.place(earlier)}"
        faults.add(f"{table.place(row)}.{field}", "a unique value", found)
