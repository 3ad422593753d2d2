"""Reads Cityscapes: polygons or ``instanceIds`` in ``gtFine``, images in ``leftImg8bit``.

Each annotated frame becomes a video. If the folder ``leftImg8bit_sequence`` exists, the video also
has the 19 frames before and the 10 frames after the annotated frame as support frames.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vodet.data.formats.cityscapes_masks import CLASSES, instance_id_boxes, polygon_boxes
from vodet.data.formats.folders import (
    choose_sequences,
    find_folder,
    image_size,
    named,
    relative,
)
from vodet.data.formats.outline import holds
from vodet.data.formats.records import Box, Frame, Records, Video, categories_of
from vodet.errors import DataError

SPLITS = ("train", "val")  # test has no annotations
OFFICIAL_FRAMES = {"train": 2975, "val": 500}
MASKS = ("polygons", "instances")
BEFORE, AFTER = 19, 10  # the 20th of the 30 frames of a snippet is annotated
SHORT = "neighbouring frames missing from leftImg8bit_sequence"
_SUFFIXES = {"polygons": "_gtFine_polygons.json", "instances": "_gtFine_instanceIds.png"}
_READERS = {"polygons": polygon_boxes, "instances": instance_id_boxes}


class _Snippet(NamedTuple):
    """An annotated frame: the parts of its name ``{city}_{sequence}_{number}``, and its file."""

    city: str
    sequence: str
    number: int
    annotations: Path

    def stem(self, number: int) -> str:
        return f"{self.city}_{self.sequence}_{number:06d}"


def recognises(source: Path) -> bool:
    """Return whether a folder holds Cityscapes."""
    return holds(source, "gtFine")


def read_cityscapes(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    sequences: Mapping[str, range | None] | None = None,
    masks: str = "polygons",
) -> Records:
    """Read a split of Cityscapes.

    Args:
        source: The folder with ``gtFine``.
        images: The image root, with ``leftImg8bit`` and, for support frames,
            ``leftImg8bit_sequence``; by default ``source``.
        split: ``train`` or ``val``.
        sequences: The cities to read, as keys; by default all cities of the split.
        masks: The files to read: ``polygons`` or ``instances``. They differ for groups of objects:
            each group polygon is one ignore region, but in ``instanceIds``, groups of the same
            class that touch are one region.

    Raises:
        DataError: If a file or folder is missing or malformed.
    """
    split = named("--split", split, SPLITS)
    folder = find_folder(source, (f"gtFine/{split}",), "annotations of Cityscapes")
    there = [path.name for path in folder.iterdir() if path.is_dir()]
    cities = choose_sequences(there, None, {}, sequences, folder)
    suffix = _SUFFIXES[named("--masks", masks, MASKS)]
    snippets = [snippet for city in cities for snippet in _snippets(folder / city, suffix)]
    skipped: Counter[str] = Counter()
    reader = _Reader(images or source, split, _READERS[masks], skipped)
    videos = (reader.video(snippet) for snippet in snippets)
    names, groups = zip(*CLASSES.values(), strict=True)
    official = OFFICIAL_FRAMES[split] if sequences is None else None
    return Records(categories_of(names, groups), videos, None, skipped, official)


def _snippets(folder: Path, suffix: str) -> list[_Snippet]:
    snippets = []
    for path in sorted(folder.glob(f"*{suffix}")):
        match = re.fullmatch(r"(.+)_(\d{6})_(\d{6})", path.name.removesuffix(suffix))
        if match is None:
            msg = f"{path}: expected a name like city_000000_000019{suffix}."
            raise DataError(msg)
        snippets.append(_Snippet(match[1], match[2], int(match[3]), path))
    if not snippets:
        msg = f"Expected annotations named *{suffix} in {folder}, found none. Check --masks."
        raise DataError(msg)
    return snippets


@dataclass(frozen=True)
class _Reader:
    root: Path
    split: str
    boxes_of: Callable[[Path, tuple[int, int], Counter[str]], list[Box]]
    skipped: Counter[str]

    def video(self, snippet: _Snippet) -> Video:
        """Return the video of an annotated frame, with the neighbouring frames that exist."""
        return Video(snippet.stem(snippet.number), self._frames(snippet))

    def _frames(self, snippet: _Snippet) -> Iterator[Frame]:
        image = self._annotated_image(snippet)
        size = image_size(image)
        numbers = range(snippet.number - BEFORE, snippet.number + AFTER + 1)
        has_sequence = (self.root / "leftImg8bit_sequence").is_dir()
        for number in numbers if has_sequence else [snippet.number]:
            if number == snippet.number:
                boxes = self.boxes_of(snippet.annotations, size, self.skipped)
                yield Frame(relative(image, self.root), number, size, boxes)
                continue
            neighbour = self._image("leftImg8bit_sequence", snippet, number)
            if neighbour.is_file():
                image_size(neighbour, size)
                name = relative(neighbour, self.root)
                yield Frame(name, number, size, [], is_annotated=False)
            else:
                self.skipped[SHORT] += 1

    def _annotated_image(self, snippet: _Snippet) -> Path:
        places = [
            self._image(folder, snippet, snippet.number)
            for folder in ("leftImg8bit", "leftImg8bit_sequence")
        ]
        for place in places:
            if place.is_file():
                return place
        msg = (
            f"Expected the image of {snippet.annotations} at {' or '.join(map(str, places))}, "
            "found none. Set --images to the folder that contains leftImg8bit."
        )
        raise DataError(msg)

    def _image(self, folder: str, snippet: _Snippet, number: int) -> Path:
        name = f"{snippet.stem(number)}_leftImg8bit.png"
        return self.root / folder / self.split / snippet.city / name
