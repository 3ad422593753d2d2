"""Reads KITTI tracking: ``label_02/%04d.txt``, whose ``DontCare`` objects are ignore regions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vodet.data.formats.folders import find_folder
from vodet.data.formats.kitti import OFFICIAL_FRAMES, read_videos
from vodet.data.formats.outline import holds
from vodet.data.formats.records import Box, Frame, Records, categories_of, ignored_for_all
from vodet.data.formats.sequence import Sequence
from vodet.data.formats.tables import Row, integer, number

CLASS_NAMES = ("car", "van", "truck", "pedestrian", "person_sitting", "cyclist", "tram", "misc")
_GROUPS = ("vehicle", "vehicle", "vehicle", "person", "person", "person", "vehicle", "misc")
DONT_CARE = "DontCare"
# The labels say `Person` where the development kit says `Person_sitting`.
_LABELS = {name.capitalize(): label for label, name in enumerate(CLASS_NAMES)} | {
    "Person": CLASS_NAMES.index("person_sitting")
}
_VISIBLE = 0  # in column `occluded`; 1: partly, 2: largely, 3: unknown, -1: DontCare


def _type(text: str) -> str:
    if text not in _LABELS and text != DONT_CARE:
        msg = f"expected one of {', '.join((*_LABELS, DONT_CARE))}; found {text!r}"
        raise ValueError(msg)
    return text


_NUMBERS = "alpha left top right bottom height width length x y z rotation_y"
_COLUMNS: dict[str, Callable[[str], Any]] = {
    "frame": integer,
    "track_id": integer,
    "type": _type,
    "truncated": number,
    "occluded": integer,
    **dict.fromkeys(_NUMBERS.split(), number),
}


def recognises(source: Path) -> bool:
    """Return whether a folder holds KITTI tracking."""
    return holds(source, "label_02", "training/label_02")


def read_kitti_tracking(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    sequences: Mapping[str, range | None] | None = None,
) -> Records:
    """Read sequences of KITTI tracking; its eight object types are the classes.

    Args:
        source: The folder with ``label_02`` or ``training/label_02``.
        images: The image root, with ``image_02`` or ``training/image_02``; by default ``source``.
        split: ``train`` or ``val`` of KITTI MOTS, since KITTI tracking defines no such split.
        sequences: The sequences to read, each with the numbers of its frames to read, or None for
            all its frames.

    Raises:
        DataError: If a file or folder is missing or malformed.
    """
    places = ("label_02", "training/label_02")
    annotations = find_folder(source, places, "labels of KITTI tracking")
    videos = read_videos(annotations, ".txt", _frames, images or source, split, sequences)
    categories = categories_of(CLASS_NAMES, _GROUPS)
    return Records(categories, videos, official_frames=OFFICIAL_FRAMES.get(split))


def _frames(path: Path, sequence: Sequence) -> Iterator[Frame]:
    groups = sequence.rows(path, _COLUMNS, separator=None)
    return sequence.frames(
        lambda frame, _: (box for row in groups.get(frame, []) for box in _boxes(row))
    )


def _boxes(row: Row) -> list[Box]:
    values = row.values
    xyxy = (values["left"], values["top"], values["right"], values["bottom"])
    if values["type"] == DONT_CARE:
        return ignored_for_all(Box(0, xyxy), len(CLASS_NAMES))
    label = _LABELS[values["type"]]
    return [Box(label, xyxy, str(values["track_id"]), is_occluded=values["occluded"] != _VISIBLE)]
