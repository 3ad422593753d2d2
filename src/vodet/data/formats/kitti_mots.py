"""Reads KITTI MOTS: masks in ``instances_txt/%04d.txt`` or 16-bit ``instances/%04d/%06d.png``.

The id of a mask is class * 1000 + instance; class 1 is car, 2 is pedestrian, 10 is an ignore
region. The boxes are the tight boxes of the masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vodet.data.formats.folders import find_folder, named
from vodet.data.formats.kitti import OFFICIAL_FRAMES, read_videos
from vodet.data.formats.masks import Region, read_ids, region_of_runs, regions_of_ids
from vodet.data.formats.outline import holds
from vodet.data.formats.records import Box, Frame, Records, categories_of, ignored_for_all
from vodet.data.formats.sequence import Sequence
from vodet.data.formats.tables import integer, one_of, raise_faults
from vodet.errors import DataError

CLASS_NAMES = ("car", "pedestrian")  # classes 1 and 2
MASKS = ("txt", "png")
_IGNORED = 10
_CLASSES = (1, 2, _IGNORED)
_COLUMNS: dict[str, Callable[[str], Any]] = {
    "frame": integer,
    "id": integer,
    "class": one_of(*_CLASSES),
    "height": integer,
    "width": integer,
    "rle": str,
}


def recognises(source: Path) -> bool:
    """Return whether a folder holds KITTI MOTS."""
    return holds(source, "instances_txt", "instances", "training/instances*")


def read_kitti_mots(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    sequences: Mapping[str, range | None] | None = None,
    masks: str = "txt",
) -> Records:
    """Read sequences of KITTI MOTS.

    Args:
        source: The folder with ``instances_txt`` or ``instances``.
        images: The image root, with ``image_02`` or ``training/image_02``; by default ``source``.
        split: ``train`` or ``val``.
        sequences: The sequences to read, each with the numbers of its frames to read, or None for
            all its frames.
        masks: The files to read, ``txt`` or ``png``. Both contain the same masks.

    Raises:
        DataError: If a file or folder is missing or malformed.
    """
    folder, suffix, read = {
        "txt": ("instances_txt", ".txt", _regions_of_text),
        "png": ("instances", "", _regions_of_images),
    }[named("--masks", masks, MASKS)]
    annotations = find_folder(source, (folder, f"training/{folder}"), "masks of KITTI MOTS")
    videos = read_videos(annotations, suffix, read, images or source, split, sequences)
    categories = categories_of(CLASS_NAMES, ["vehicle", "person"])
    return Records(categories, videos, official_frames=OFFICIAL_FRAMES.get(split))


def _regions_of_text(path: Path, sequence: Sequence) -> Iterator[Frame]:
    groups = sequence.rows(path, _COLUMNS, separator=None)

    def boxes_of(frame: int, size: tuple[int, int]) -> list[Box]:
        boxes: list[Box] = []
        faults: list[str] = []
        for line, values in groups.get(frame, []):
            try:
                boxes += _boxes(_region(values, size))
            except ValueError as error:
                faults.append(f"line {line}: {error}")
        raise_faults(path, faults)
        return boxes

    return sequence.frames(boxes_of)


def _region(values: Mapping[str, Any], size: tuple[int, int]) -> Region:
    mask_id, kind, annotated = values["id"], values["class"], (values["height"], values["width"])
    if mask_id // 1000 != kind:
        msg = f"id: expected class * 1000 + instance with class {kind}, found {mask_id}"
        raise ValueError(msg)
    if annotated != size:
        found = f"{annotated[0]} x {annotated[1]}"
        msg = f"expected the image size {size[0]} x {size[1]} (height x width), found {found}"
        raise ValueError(msg)
    return region_of_runs(mask_id, size, values["rle"])


def _regions_of_images(folder: Path, sequence: Sequence) -> Iterator[Frame]:
    def boxes_of(frame: int, size: tuple[int, int]) -> list[Box]:
        path = folder / f"{frame:06d}.png"
        boxes: list[Box] = []
        for region in regions_of_ids(read_ids(path, size)):
            if region.id and region.id // 1000 not in _CLASSES:
                msg = (
                    f"{path}: expected ids of the form class * 1000 + instance, where class is "
                    f"1, 2 or {_IGNORED}; found {region.id}. Use the original files of KITTI MOTS."
                )
                raise DataError(msg)
            boxes += _boxes(region) if region.id else []
        return boxes

    return sequence.frames(boxes_of)


def _boxes(region: Region) -> list[Box]:
    kind = region.id // 1000
    box = Box(0, region.xyxy, str(region.id), region.area)
    if kind == _IGNORED:
        return ignored_for_all(box, len(CLASS_NAMES))
    return [box._replace(label=kind - 1)]
