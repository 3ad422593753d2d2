"""Decodes the tables of an ST-COCO file, such as ``images``, and checks each entry.

A valid file is decoded directly into typed entries, one table at a time, which keeps peak memory
low. If decoding fails, the file is read again entry by entry, so that every fault is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import GenericAlias
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from vodet.data.annotations.faults import Faults
from vodet.json_files import parse_json, shown

Id = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Extent = Annotated[int, Meta(ge=1, le=2**31 - 1)]
FrameNumber = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Area = Annotated[float, Meta(ge=0, le=float(np.finfo(np.float32).max))]
Flag = bool | Annotated[int, Meta(ge=0, le=1)]

WINDOWS_SEPARATORS = ", with `/` between folders instead of the Windows separator `\\`"


class _EntryError(ValueError):
    """A fault of one entry; ``where`` is its field, such as ``.bbox``, or empty for all fields."""

    def __init__(self, where: str, expected: str, found: str) -> None:
        super().__init__(where, expected, found)
        self.where, self.expected, self.found = where, expected, found


class ImageEntry(msgspec.Struct, gc=False):
    """An entry of ``images``: a frame of a video, with the field names of ST-COCO or CocoVID."""

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
        if expected := expected_path(self.file_name):
            raise _EntryError(where=".file_name", expected=expected, found=shown(self.file_name))


def expected_path(file_name: str) -> str | None:
    """Check that a file name stays below the image root.

    Returns:
        None if it does; otherwise a description of the expected path, for an error message.
    """
    if not leaves_root(file_name):
        return None
    separators = WINDOWS_SEPARATORS if "\\" in file_name else ""
    return f"a path that stays below the image root{separators}"


def leaves_root(file_name: str) -> bool:
    """Return whether a file name is empty or leads to a file outside the image root.

    Absolute paths, Windows drives, URLs and paths with ``..`` lead outside.
    """
    return (
        file_name.startswith(("/", "\\"))
        or file_name[1:2] == ":"
        or "://" in file_name
        or (".." in file_name and ".." in re.split(r"[/\\]", file_name))
        or not file_name
    )


class AnnotationEntry(msgspec.Struct, gc=False):
    """An entry of ``annotations``: a box, with the field names of ST-COCO or CocoVID."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    id_track: str | int | None = None
    instance_id: str | int | None = None
    area: Area | None = None
    iscrowd: Flag = False
    ignore: Flag = False


class CategoryEntry(msgspec.Struct, gc=False):
    """An entry of ``categories``: a class of objects."""

    id: Id
    name: str


class VideoEntry(msgspec.Struct, gc=False):
    """An entry of ``videos``, as in CocoVID, with optional attributes such as ``night``."""

    id: int | str
    name: str
    attributes: list[Annotated[str, Meta(min_length=1)]] | None = None


class _Document(msgspec.Struct):
    """An ST-COCO file whose tables are not yet decoded."""

    images: msgspec.Raw
    annotations: msgspec.Raw
    categories: msgspec.Raw
    videos: msgspec.Raw = msgspec.Raw(b"[]")


Entry = TypeVar("Entry", bound=msgspec.Struct)


@dataclass(frozen=True)
class Table(Generic[Entry]):
    """A table of an ST-COCO file, such as ``images``, without entries that cannot be decoded.

    Args:
        name: Name of the table.
        entries: The entries that could be decoded.
        positions: Position of each of these entries in the table of the file.
        unreadable_ids: Id of each entry that could not be decoded; ``None`` if the entry has no
            usable id.
    """

    name: str
    entries: list[Entry]
    positions: Sequence[int]
    unreadable_ids: Sequence[object] = ()

    @property
    def size(self) -> int:
        """Number of entries of the table, including entries that could not be decoded."""
        return len(self.entries) + len(self.unreadable_ids)

    def place(self, row: int) -> str:
        """Return where entry ``entries[row]`` is in the file, such as ``images[3]``."""
        return f"{self.name}[{self.positions[row]}]"

    def column(self, field: str, dtype: type[np.generic] = np.int64) -> np.ndarray:
        """Return one field of all decoded entries as an array."""
        return np.fromiter(map(attrgetter(field), self.entries), dtype, len(self.entries))


class TypedFile:
    """Decodes the tables of a valid file; msgspec raises an error at the first faulty entry."""

    def __init__(self, data: bytes) -> None:
        self._document = msgspec.json.decode(data, type=_Document)

    def read(self, name: str, kind: type[Entry]) -> Table[Entry]:
        """Decode the table ``name`` into entries of type ``kind``."""
        raw = getattr(self._document, name)
        entries = msgspec.json.decode(raw, type=GenericAlias(list, (kind,)))
        return Table(name, entries, range(len(entries)))


class FaultyFile:
    """Decodes the tables of a faulty file entry by entry, to find all its faults."""

    def __init__(self, data: bytes, faults: Faults) -> None:
        self._tables = _parse_tables(data, faults)
        self._faults = faults

    def read(self, name: str, kind: type[Entry]) -> Table[Entry]:
        """Decode the table ``name``, leaving out its faulty entries and recording their faults."""
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
        return Table(name, entries, positions, unreadable_ids)


def _parse_tables(data: bytes, faults: Faults) -> dict[str, list[Any]]:
    document = parse_json(data, faults.source)
    if not isinstance(document, dict):
        faults.add("the file", "`object` with images, annotations, categories", shown(document))
        faults.raise_if_any()
    tables = {}
    for table in msgspec.structs.fields(_Document):
        tables[table.name] = document.get(table.name, None if table.required else [])
        if not isinstance(tables[table.name], list):
            found = shown(tables[table.name]) if table.name in document else "nothing"
            faults.add(table.name, "`array`", found)
    faults.raise_if_any()
    return tables


def _entry_faults(
    row: object, kind: type[msgspec.Struct], error: msgspec.ValidationError
) -> Iterator[_EntryError]:
    """Yield all faults of an entry, given the error that msgspec raised for its first fault."""
    if isinstance(error.__cause__, _EntryError):
        yield error.__cause__
    elif not isinstance(row, dict):
        yield _EntryError("", "`object`", shown(row))
    else:
        for field in msgspec.structs.fields(kind):
            value = row.get(field.name, ... if field.required else field.default)
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError as fault:
                expected = re.split(", got | - at ", str(fault))[0].removeprefix("Expected ")
                found = "nothing" if value is ... else shown(value)
                yield _EntryError(f".{field.name}", expected, found)
