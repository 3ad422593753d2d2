"""Reads UAVDT: images such as ``M0101/img000001.jpg``, boxes such as ``M0101_gt_whole.txt``.

Frames are numbered from 1. ``M0101_gt.txt`` is not read, because its last columns are constants
instead of classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from vodet.data.formats.folders import choose_sequences, find_folder
from vodet.data.formats.outline import holds
from vodet.data.formats.records import Box, Records, Video, categories_of, ignored_for_all
from vodet.data.formats.sequence import Sequence
from vodet.data.formats.tables import Row, integer, one_of, read_rows, xyxy
from vodet.errors import DataError

CLASS_NAMES = ("car", "truck", "bus")  # categories 1, 2, 3
ATTRIBUTES = (
    "daylight",
    "night",
    "fog",
    "low-alt",
    "medium-alt",
    "high-alt",
    "front-view",
    "side-view",
    "bird-view",
    "long-term",
)
_TRAIN = (
    "0101 0201 0202 0204 0206 0207 0210 0301 0401 0402 0501 0603 0604 0605 0702 0703 0704 0901 "
    "0902 1002 1003 1005 1006 1008 1102 1201 1202 1304 1305 1306"
)
_TEST = (
    "0203 0205 0208 0209 0403 0601 0602 0606 0701 0801 0802 1001 1004 1007 1009 1101 1301 1302 "
    "1303 1401"
)
SPLITS = {
    "train": tuple(f"M{number}" for number in _TRAIN.split()),
    "test": tuple(f"M{number}" for number in _TEST.split()),
}
OFFICIAL_FRAMES: dict[str | None, int] = {"train": 24143, "test": 16592}
NO_ATTRIBUTES = "attribute files (no folder M_attr): the videos get no attributes"

_OBJECT: dict[str, Callable[[str], int]] = {
    "frame": integer,
    "target_id": integer,
    "left": integer,
    "top": integer,
    "width": integer,
    "height": integer,
    "out_of_view": one_of(1, 2, 3),
    "occlusion": one_of(1, 2, 3, 4),
    "category": one_of(1, 2, 3),
}
_NOT_OCCLUDED = 1
_IGNORED = _OBJECT | {"out_of_view": integer, "occlusion": integer, "category": integer}
_SUFFIX = "_gt_whole.txt"


class _Folders(NamedTuple):
    ground_truth: Path
    pixels: Path
    root: Path
    attributes: Path | None


def recognises(source: Path) -> bool:
    """Return whether a folder holds UAVDT."""
    return holds(source, "*_gt_whole.txt", "GT/*_gt_whole.txt", "*/GT/*_gt_whole.txt")


def read_uavdt(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    sequences: Mapping[str, range | None] | None = None,
) -> Records:
    """Read sequences of the multi-object benchmark of UAVDT.

    Args:
        source: The folder with the annotation files, directly or in ``GT``, and with the video
            attributes in ``M_attr``.
        images: The image root, with the folders of the sequences, directly or in
            ``UAV-benchmark-M``; by default ``source``.
        split: ``train`` or ``test``.
        sequences: The sequences to read, each with the numbers of its frames to read, or None for
            all its frames.

    Raises:
        DataError: If a file or folder is missing or malformed.
    """
    root = images or source
    benchmark = "UAV-benchmark-MOTD_v1.0"
    ground_truth = find_folder(source, ("GT", f"{benchmark}/GT", "."), "annotations of UAVDT")
    places = ("M_attr", f"{benchmark}/M_attr", "../M_attr")
    attributes = next((source / place for place in places if (source / place).is_dir()), None)
    folders = _Folders(
        ground_truth, find_folder(root, ("UAV-benchmark-M", "."), "images"), root, attributes
    )
    there = [path.name.removesuffix(_SUFFIX) for path in ground_truth.glob(f"*{_SUFFIX}")]
    chosen = choose_sequences(there, split, SPLITS, sequences, ground_truth)
    skipped: Counter[str] = Counter()
    if attributes is None:
        skipped[NO_ATTRIBUTES] += len(chosen)
    wanted = sequences or {}
    videos = (_video(folders, name, wanted.get(name)) for name in chosen)
    categories = categories_of(CLASS_NAMES, ["vehicle"] * 3)
    return Records(categories, videos, None, skipped, OFFICIAL_FRAMES.get(split))


def _video(folders: _Folders, name: str, frames: range | None) -> Video:
    pattern = r"img(\d{6})\.jpg"
    sequence = Sequence(name, folders.pixels / name, pattern, folders.root, frames)
    objects = sequence.rows(folders.ground_truth / f"{name}{_SUFFIX}", _OBJECT)
    ignored = sequence.rows(folders.ground_truth / f"{name}_gt_ignore.txt", _IGNORED)

    def boxes_of(frame: int, _: tuple[int, int]) -> Iterator[Box]:
        yield from (_object(row) for row in objects.get(frame, []))
        for row in ignored.get(frame, []):
            yield from ignored_for_all(Box(0, xyxy(row.values)), len(CLASS_NAMES))

    attributes = _read_attributes(folders.attributes, name) if folders.attributes else None
    return Video(name, sequence.frames(boxes_of), attributes)


def _object(row: Row) -> Box:
    values = row.values
    return Box(
        label=values["category"] - 1,
        xyxy=xyxy(values),
        track=str(values["target_id"]),
        is_occluded=values["occlusion"] != _NOT_OCCLUDED,
    )


def _read_attributes(folder: Path, name: str) -> list[str]:
    # One of the official files has a space in its name: `M0701 _attr.txt`.
    names = (f"{name}_attr.txt", f"{name} _attr.txt")
    paths = [path for part in ("train", "test", ".") for path in (folder / part / n for n in names)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        places = f"train/{names[0]} or test/{names[0]}"
        msg = f"Expected the attributes of {name} at {places} in {folder}, found neither file."
        raise DataError(msg)
    kinds = dict.fromkeys(ATTRIBUTES, one_of(0, 1))
    rows = read_rows(path, kinds)
    if len(rows) != 1:
        msg = f"{path}: expected one line of {len(ATTRIBUTES)} values, found {len(rows)} lines."
        raise DataError(msg)
    return [attribute for attribute in ATTRIBUTES if rows[0].values[attribute]]
