"""Reads the tables of ST-COCO files row by row, to write the rows to other files unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vodet.data.annotations.index import VideoIndex
from vodet.data.annotations.st_coco import read_st_coco
from vodet.files import replacing
from vodet.json_files import UNDECODABLE, parse_json, read_json

Row = dict[str, Any]


class _Image(msgspec.Struct, gc=False):
    id: int
    video: str | None = None
    video_id: int | str | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: int


class _Named(msgspec.Struct, gc=False):
    id: int | str
    name: str


@dataclass(frozen=True)
class Rows:
    """An ST-COCO file whose rows are text.

    Args:
        index: The same file as an index.
        document: The values of the file by key.
        images: Text of each image.
        annotations: Text of each annotation.
        videos: Name of the video of each image.
        image_of: Position of the image of each annotation.
    """

    index: VideoIndex
    document: dict[str, msgspec.Raw]
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    videos: list[str]
    image_of: list[int]

    def table(self, name: str) -> list[Row]:
        """Return the rows of a small table, such as ``categories``, or nothing if it is missing."""
        found: list[Row] = msgspec.json.decode(self.document.get(name, b"[]"))
        return found


def read_rows(path: Path) -> Rows:
    """Read an ST-COCO file.

    Args:
        path: The file.

    Raises:
        DataError: If the file is missing or faulty.
    """
    index = read_st_coco(path)
    data = read_json(path, "an ST-COCO file (.json or .json.gz)")
    try:
        document = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        images = msgspec.json.decode(document["images"], type=list[_Image])
        annotations = msgspec.json.decode(document["annotations"], type=list[_Annotation])
    except UNDECODABLE:  # such as ids written as 3.0, which become integers here
        data = msgspec.json.encode(parse_json(data, path))
        document = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        images = msgspec.json.decode(document["images"], type=list[_Image])
        annotations = msgspec.json.decode(document["annotations"], type=list[_Annotation])
    videos = msgspec.json.decode(document.get("videos", b"[]"), type=list[_Named])
    names: dict[int | str | None, str] = {video.id: video.name for video in videos}
    places = {image.id: place for place, image in enumerate(images)}
    return Rows(
        index,
        document,
        msgspec.json.decode(document["images"], type=list[msgspec.Raw]),
        msgspec.json.decode(document["annotations"], type=list[msgspec.Raw]),
        [names[image.video_id] if image.video is None else image.video for image in images],
        [places[annotation.image_id] for annotation in annotations],
    )


def write_rows(target: Path, tables: dict[str, Iterable[msgspec.Raw | Row] | msgspec.Raw]) -> None:
    """Write a JSON file, which appears only when it is complete.

    Args:
        target: The file to write.
        tables: The values by key: rows that are written one by one, or text.
    """
    encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
    with replacing(target) as partial, partial.open("wb") as file:
        for place, (key, rows) in enumerate(tables.items()):
            file.write((b",\n" if place else b"{") + encode(key) + b": ")
            if isinstance(rows, msgspec.Raw):
                file.write(rows)
                continue
            file.write(b"[")
            for number, row in enumerate(rows):
                file.write((b",\n" if number else b"\n") + encode(row))
            file.write(b"]")
        file.write(b"}\n")
