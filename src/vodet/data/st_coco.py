"""Reading ST-COCO: COCO detection JSON with video fields; CocoVID's names are accepted too.

A good file is decoded straight into typed entries, one table after the other, which keeps the peak
of memory low. Where that fails, the file is read again entry by entry, to name every fault. Both
ways share the rules: those of one entry stand in its class, those between entries in the
functions that turn a table into columns.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import numpy as np
from jaxtyping import Float32, Int, Int64
from msgspec import Meta

from vodet.data.index import UNKNOWN_TRACK, BoxRows, FrameRows, PackedStrings, VideoIndex
from vodet.errors import DataError

SHOWN_FAULTS = 10  # of each kind
MAX_CLASSES = int(np.iinfo(np.int16).max)  # the index keeps labels in 16 bits

Id = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Extent = Annotated[int, Meta(ge=1, le=2**31 - 1)]
FrameNumber = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Area = Annotated[float, Meta(ge=0, le=float(np.finfo(np.float32).max))]
Flag = bool | Annotated[int, Meta(ge=0, le=1)]


class _EntryError(ValueError):
    """A fault within one entry, at ``where`` in it."""

    def __init__(self, where: str, expected: str, found: str) -> None:
        super().__init__(where, expected, found)
        self.where, self.expected, self.found = where, expected, found


class _Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    height: Extent
    width: Extent
    video: str | None = None
    video_id: int | str | None = None
    frame_number: FrameNumber | None = None
    frame_id: FrameNumber | None = None
    is_annotated: Flag = True

    def __post_init__(self) -> None:
        if self.video is None and self.video_id is None:
            raise _EntryError(where=".video", expected="`str` (or `video_id`)", found="nothing")
        if self.frame_number is None:
            self.frame_number = self.frame_id
        if self.frame_number is None:
            raise _EntryError(
                where=".frame_number", expected="`int` (or `frame_id`)", found="nothing"
            )
        if _leaves_root(self.file_name):
            raise _EntryError(
                where=".file_name",
                expected="a path that stays below the image root",
                found=repr(self.file_name),
            )


def _leaves_root(file_name: str) -> bool:
    return (
        file_name.startswith(("/", "\\"))
        or file_name[1:2] == ":"
        or "://" in file_name
        or (".." in file_name and ".." in re.split(r"[/\\]", file_name))
        or not file_name
    )


class _Annotation(msgspec.Struct, gc=False):
    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    id_track: str | int | None = None
    instance_id: str | int | None = None
    area: Area | None = None
    iscrowd: Flag = False
    ignore: Flag = False


class _Category(msgspec.Struct, gc=False):
    id: Id
    name: str


class _Video(msgspec.Struct, gc=False):
    id: int | str
    name: str


class _Document(msgspec.Struct):
    """The tables of a file, not yet decoded."""

    images: msgspec.Raw
    annotations: msgspec.Raw
    categories: msgspec.Raw
    videos: msgspec.Raw = msgspec.Raw(b"[]")


Entry = TypeVar("Entry", bound=msgspec.Struct)


@dataclass(frozen=True)
class _Table(Generic[Entry]):
    """The readable entries of a table.

    Args:
        name: Its name in the file.
        entries: The readable entries.
        positions: Their positions in the file.
        unreadable_ids: Ids of the other entries; ``None`` where that is not readable either.
    """

    name: str
    entries: list[Entry]
    positions: Sequence[int]
    unreadable_ids: Sequence[object] = ()

    @property
    def size(self) -> int:
        return len(self.entries) + len(self.unreadable_ids)

    def place(self, row: int) -> str:
        return f"{self.name}[{self.positions[row]}]"

    def column(self, field: str, dtype: type[np.generic] = np.int64) -> np.ndarray:
        return np.fromiter(map(attrgetter(field), self.entries), dtype, len(self.entries))


class _Faults:
    """The faults of one file by kind: all are counted, the first of each kind are kept."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._counts: Counter[str] = Counter()
        self._lines: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, place: str, expected: str, found: str) -> None:
        """Note a fault at a place like ``annotations[17].bbox``."""
        kind = re.sub(r"\[\d+\]", "", place) + f": expected {expected}"
        self._counts[kind] += 1
        if self._counts[kind] <= SHOWN_FAULTS:
            self._lines[kind].append(f"    {place}: found {_shorten(found)}")

    def raise_if_any(self) -> None:
        if self._counts:
            text = [f"{self.source}: {_how_many(self._counts.total())} in this ST-COCO file."]
            for kind, lines in self._lines.items():
                count = self._counts[kind]
                shown = "" if count == len(lines) else f", the first {len(lines)} of them"
                text += [f"  {kind} ({_how_many(count)}{shown})", *lines]
            raise DataError("\n".join(text))


def _how_many(faults: int) -> str:
    return "1 fault" if faults == 1 else f"{faults} faults"


def _shorten(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def read_st_coco(path: str | Path) -> VideoIndex:
    """Read an ST-COCO file, ``.json`` or ``.json.gz``.

    Images may be in any order, fields beyond those of the format are ignored, and the names of
    CocoVID are understood (``videos``, ``video_id``, ``frame_id``, ``instance_id``).

    Args:
        path: The file.

    Raises:
        DataError: If the file is missing or not JSON, or with all faults of its entries: for each
            kind the number and the first ten, with entry, field, what was expected and found.
    """
    source = Path(path)
    data = _read_bytes(source)
    try:
        return _build(_TypedFile(data), _Faults(source))
    except msgspec.DecodeError:
        return _build_from_faulty(data, source)


def _build_from_faulty(data: bytes, source: Path) -> VideoIndex:
    faults = _Faults(source)
    try:
        return _build(_FaultyFile(data, faults), faults)
    except UnicodeEncodeError as error:  # half a character, written as an escape
        msg = f"{source} is not valid JSON: in {error.object!r}, {error}."
    raise DataError(msg)


def _read_bytes(source: Path) -> bytes:
    try:
        data = source.read_bytes()
        return gzip.decompress(data) if source.suffix == ".gz" else data
    except FileNotFoundError:
        folder = "exists" if source.parent.is_dir() else "does not exist either"
        msg = (
            f"Looked for an ST-COCO file (.json or .json.gz) at {source.absolute()}, found none; "
            f"its folder {folder}."
        )
    except (OSError, EOFError, zlib.error) as error:
        msg = f"Cannot read {source}: {error}. Expected an ST-COCO file, .json or .json.gz."
    raise DataError(msg)


class _TypedFile:
    """Tables of a file without faults within its entries; raises msgspec's errors otherwise."""

    def __init__(self, data: bytes) -> None:
        self._document = msgspec.json.decode(data, type=_Document)

    def read(self, name: str, kind: type[Entry]) -> _Table[Entry]:
        raw = getattr(self._document, name)
        entries = msgspec.json.decode(raw, type=GenericAlias(list, (kind,)))
        return _Table(name, entries, range(len(entries)))


class _FaultyFile:
    """Tables of a file, of which the entries with faults are left out and reported."""

    def __init__(self, data: bytes, faults: _Faults) -> None:
        self._tables = _parse_tables(data, faults)
        self._faults = faults

    def read(self, name: str, kind: type[Entry]) -> _Table[Entry]:
        entries, positions, unreadable_ids = [], [], []
        for position, row in enumerate(self._tables[name]):
            try:
                entries.append(msgspec.convert(row, kind))
                positions.append(position)
            except msgspec.ValidationError as error:
                for fault in _entry_faults(row, kind, error):
                    place = f"{name}[{position}]{fault.where}"
                    self._faults.add(place, fault.expected, fault.found)
                row_id = row.get("id") if isinstance(row, dict) else None
                unreadable_ids.append(row_id if isinstance(row_id, int | str) else None)
        return _Table(name, entries, positions, unreadable_ids)


def _parse_tables(data: bytes, faults: _Faults) -> dict[str, list[Any]]:
    # Python's own parser takes NaN and Infinity, so that they can be reported with their boxes.
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        msg = f"{faults.source} is not valid JSON: {error}."
        raise DataError(msg) from error
    if not isinstance(document, dict):
        faults.add("the file", "`object` with images, annotations, categories", repr(document))
        faults.raise_if_any()
    tables = {}
    for table in msgspec.structs.fields(_Document):
        tables[table.name] = document.get(table.name, None if table.required else [])
        if not isinstance(tables[table.name], list):
            found = repr(tables[table.name]) if table.name in document else "nothing"
            faults.add(table.name, "`array`", found)
    faults.raise_if_any()
    return tables


def _entry_faults(
    row: object, kind: type[msgspec.Struct], error: msgspec.ValidationError
) -> Iterator[_EntryError]:
    """Yield all faults of an entry, of which ``error`` tells the first."""
    if isinstance(error.__cause__, _EntryError):
        yield error.__cause__
    elif not isinstance(row, dict):
        yield _EntryError("", "`object`", repr(row))
    else:
        for field in msgspec.structs.fields(kind):
            value = row.get(field.name, ... if field.required else field.default)
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError as fault:
                expected = re.split(", got | - at ", str(fault))[0].removeprefix("Expected ")
                found = "nothing" if value is ... else repr(value)
                yield _EntryError(f".{field.name}", expected, found)


def _build(file: _TypedFile | _FaultyFile, faults: _Faults) -> VideoIndex:
    name_of_video = _read_videos(file.read("videos", _Video), faults)
    categories, category_ids = _read_categories(file.read("categories", _Category), faults)
    video_names, frames, image_ids = _read_frames(
        file.read("images", _Image), name_of_video, faults
    )
    boxes = _read_boxes(file.read("annotations", _Annotation), image_ids, category_ids, faults)
    faults.raise_if_any()
    return VideoIndex.from_rows(str(faults.source), categories, video_names, frames, boxes)


@dataclass(frozen=True)
class _Ids:
    """The ids of a table, to which entries of other tables refer."""

    table: str
    readable: Int64[np.ndarray, " n"]
    unreadable: frozenset[object]

    def rows_of(
        self, table: _Table[Any], field: str, faults: _Faults
    ) -> Int64[np.ndarray, " entries"]:
        """Return the row of the id in ``field`` of each entry."""
        wanted = table.column(field)
        for row in np.flatnonzero(~np.isin(wanted, self.readable)).tolist():
            if int(wanted[row]) not in self.unreadable:
                expected = f"an id that is in `{self.table}`"
                faults.add(f"{table.place(row)}.{field}", expected, str(wanted[row]))
        order = np.argsort(self.readable, kind="stable")
        rows = np.append(order, 0)  # where an unknown id larger than all others ends up
        return rows[np.searchsorted(self.readable, wanted, sorter=order)]


def _read_videos(table: _Table[_Video], faults: _Faults) -> dict[object, str]:
    """Return the name of each video id."""
    ids = [video.id for video in table.entries]
    names = [video.name for video in table.entries]
    _check_unique(table, "id", _number(ids)[0], lambda row: repr(ids[row]), faults)
    _check_unique(table, "name", _number(names)[0], lambda row: repr(names[row]), faults)
    unreadable = {video: str(video) for video in table.unreadable_ids}
    return unreadable | dict(zip(ids, names, strict=True))


def _read_categories(table: _Table[_Category], faults: _Faults) -> tuple[dict[int, str], _Ids]:
    """Return the name of each category id, and the ids in ascending order."""
    if not 1 <= table.size <= MAX_CLASSES:
        faults.add(table.name, f"1 to {MAX_CLASSES} entries", str(table.size))
    ids = table.column("id")
    names = [category.name for category in table.entries]
    _check_unique(table, "id", ids, lambda row: str(ids[row]), faults)
    _check_unique(table, "name", _number(names)[0], lambda row: repr(names[row]), faults)
    categories = dict(zip(ids.tolist(), names, strict=True))
    return categories, _Ids(table.name, np.sort(ids), frozenset(table.unreadable_ids))


def _read_frames(
    table: _Table[_Image], name_of_video: dict[object, str], faults: _Faults
) -> tuple[list[str], FrameRows, _Ids]:
    """Return the names of the videos, the frames and the ids of the images."""
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
    table: _Table[_Image], name_of_video: dict[object, str], faults: _Faults
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
    table: _Table[_Annotation], image_ids: _Ids, category_ids: _Ids, faults: _Faults
) -> BoxRows:
    """Return the boxes, with labels that are positions in the category ids."""
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
    table: _Table[_Annotation], faults: _Faults
) -> tuple[Float32[np.ndarray, "n 4"], Float32[np.ndarray, " n"]]:
    """Return boxes as xyxy, and their areas: as annotated or else width times height."""
    entries = table.entries
    numbers = chain.from_iterable(map(attrgetter("bbox"), entries))
    xywh = np.fromiter(numbers, np.float64, 4 * len(entries)).reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):  # reported as faults
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


def _tracks(entries: list[_Annotation]) -> Int64[np.ndarray, " n"]:
    """Number the tracks of the whole file; the same number in two videos is not the same object."""
    tracks = [entry.instance_id if entry.id_track is None else entry.id_track for entry in entries]
    numbers, distinct = _number(None if track is None else str(track) for track in tracks)
    if None in distinct:
        numbers[numbers == distinct.index(None)] = UNKNOWN_TRACK
    return numbers


Value = TypeVar("Value", bound=Hashable)


def _number(values: Iterable[Value]) -> tuple[Int64[np.ndarray, " n"], list[Value]]:
    """Number values by first appearance; return their numbers and the distinct values."""
    numbers: dict[Value, int] = {}
    rows = np.fromiter((numbers.setdefault(value, len(numbers)) for value in values), np.int64)
    return rows, list(numbers)


def _check_unique(
    table: _Table[Any],
    field: str,
    keys: Int[np.ndarray, " n"],
    describe: Callable[[int], str],
    faults: _Faults,
) -> None:
    """Note each entry whose key an earlier entry has."""
    order = np.argsort(keys, kind="stable")
    repeats = np.flatnonzero(np.diff(keys[order]) == 0)
    for earlier, row in zip(order[repeats].tolist(), order[repeats + 1].tolist(), strict=True):
        found = f"{describe(row)}, as in {table.place(earlier)}"
        faults.add(f"{table.place(row)}.{field}", "no repetition", found)
