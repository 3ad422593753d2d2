"""Reads VisDrone-VID and VisDrone-MOT: ``sequences/{name}/%07d.jpg``, ``annotations/{name}.txt``.

Frames are numbered from 1. Ignored regions and objects of the class "others" are ignore regions for
every class; an object whose score is 0 is one for its class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from vodet.data.formats.folders import NUMBERED, choose_sequences, find_folder
from vodet.data.formats.outline import holds
from vodet.data.formats.records import Box, Records, Video, categories_of, ignored_for_all
from vodet.data.formats.sequence import Sequence
from vodet.data.formats.tables import Row, integer, number, one_of, xyxy

CLASS_NAMES = (
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
)
_IGNORED, _OTHERS = 0, 11  # category numbers; the classes are 1 to 10

_COLUMNS = {
    "frame": integer,
    "target_id": integer,
    "left": number,
    "top": number,
    "width": number,
    "height": number,
    "score": one_of(0, 1),
    "category": one_of(*range(12)),
    "truncation": integer,
    "occlusion": integer,
}


def recognises(source: Path) -> bool:
    """Return whether a folder holds a split of VisDrone."""
    return holds(source, "annotations/*.txt") and holds(source, "sequences")


def read_visdrone_vid(
    source: Path,
    *,
    images: Path | None = None,
    sequences: Mapping[str, range | None] | None = None,
) -> Records:
    """Read a split of VisDrone-VID or VisDrone-MOT.

    Args:
        source: The folder of the split, such as ``VisDrone2019-VID-train``.
        images: The image root, with the folders of the sequences, directly or in ``sequences``; by
            default ``source``.
        sequences: The sequences to read, each with the numbers of its frames to read, or None for
            all its frames.

    Raises:
        DataError: If a file or folder is missing or malformed.
    """
    root = images or source
    annotations = find_folder(source, ("annotations",), "annotations of VisDrone-VID")
    pixels = find_folder(root, ("sequences", "."), "sequences of VisDrone-VID")
    there = [path.stem for path in annotations.glob("*.txt")]
    chosen = choose_sequences(there, None, {}, sequences, annotations)
    wanted = sequences or {}

    def video(name: str) -> Video:
        images_of = Sequence(name, pixels / name, NUMBERED, root, wanted.get(name), first=1)
        rows = images_of.rows(annotations / f"{name}.txt", _COLUMNS)
        return Video(name, images_of.frames(lambda frame, _: _boxes(rows.get(frame, []))))

    return Records(categories_of(CLASS_NAMES), map(video, chosen), None, Counter())


def _boxes(rows: list[Row]) -> Iterator[Box]:
    for _, values in rows:
        if values["category"] in (_IGNORED, _OTHERS):
            yield from ignored_for_all(Box(0, xyxy(values)), len(CLASS_NAMES))
            continue
        yield Box(
            label=values["category"] - 1,
            xyxy=xyxy(values),
            track=str(values["target_id"]),
            is_ignored=values["score"] == 0,
            is_occluded=values["occlusion"] > 0,
        )
