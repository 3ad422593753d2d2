"""Reads the box tracks of BDD100K (MOT 2020), in Scalabel's format: JSON lists of frames.

A file holds the frames of one video, or of several. Boxes include their right and lower end
(``x2``, ``y2``). Other persons, trailers and other vehicles are ignore regions for every class;
crowds are ignore regions for their class. Frames are numbered as in the files, from 0.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

from vodet.data.annotations.st_coco_tables import FrameNumber, expected_path
from vodet.data.formats.folders import find_folder, image_size, named, relative
from vodet.data.formats.outline import first_entries, first_file
from vodet.data.formats.records import Box, Frame, Records, Video, categories_of, ignored_for_all
from vodet.data.formats.tables import raise_faults
from vodet.errors import DataError
from vodet.json_files import parse_json, read_json, shown

SPLITS = ("train", "val")
_GROUPS = {
    "pedestrian": "person",
    "rider": "person",
    "car": "vehicle",
    "truck": "vehicle",
    "bus": "vehicle",
    "train": "vehicle",
    "motorcycle": "bike",
    "bicycle": "bike",
}
CLASS_NAMES = tuple(_GROUPS)
_LABELS = {name: label for label, name in enumerate(CLASS_NAMES)}
_DISTRACTORS = ("other person", "trailer", "other vehicle")
_EXPECTED = "box tracks of BDD100K (.json)"


class _Box(msgspec.Struct, gc=False):
    x1: float
    y1: float
    x2: float
    y2: float


class _Label(msgspec.Struct, gc=False):
    id: str | int
    category: str
    box2d: _Box
    attributes: dict[str, bool | str | int | float | None] | None = None

    def flag(self, name: str) -> bool | None:
        """Return an attribute; its name begins with a capital letter in the files of 2020."""
        found = (self.attributes or {}).get(name, (self.attributes or {}).get(name.capitalize()))
        return None if found is None else bool(found)


class _Frame(msgspec.Struct, gc=False):
    name: str
    labels: list[_Label] | None = None
    videoName: str | None = None  # noqa: N815  the names in the file
    frameIndex: FrameNumber | None = None  # noqa: N815
    index: FrameNumber | None = None

    @property
    def number(self) -> int | None:
        """Number of the frame; files of 2020 call it ``index``."""
        return self.index if self.frameIndex is None else self.frameIndex


def recognises(source: Path) -> bool:
    """Return whether a file, or a folder of files, has box tracks of BDD100K."""
    patterns = ("*.json", "labels/box_track_20/*/*.json", "labels-20/box-track/*/*.json")
    files = [first_file(source, pattern) for pattern in patterns]
    entries = [entry for file in files for entry in first_entries(file).values()]
    return any({"name", "labels"} <= entry.keys() for entry in entries)


def read_bdd100k(source: Path, *, images: Path | None = None, split: str | None = None) -> Records:
    """Read box tracks of BDD100K.

    Args:
        source: A JSON file, a folder with JSON files, or the folder of ``labels/box_track_20``.
        images: The image root, with the folders of the videos, directly, in ``SPLIT``, or in
            ``images/track/SPLIT``; by default ``source``, or the folder of the file.
        split: ``train`` or ``val``.

    Raises:
        ConfigError: If there is no such split.
        DataError: If a file or folder is missing or malformed.
    """
    part = named("--split", split, SPLITS) if split else "."
    root = images or (source if source.is_dir() else source.parent)
    pixels = find_folder(root, (f"images/track/{part}", part, "."), "images of BDD100K")
    frames: dict[str, dict[int, _Frame]] = defaultdict(dict)
    for file in _files(source, part):
        _add_frames(file, frames)
    videos = (Video(name, _read(found, pixels / name, root)) for name, found in frames.items())
    categories = categories_of(CLASS_NAMES, list(_GROUPS.values()))
    return Records(categories, videos, sum(map(len, frames.values())), Counter())


def _files(source: Path, part: str) -> list[Path]:
    if not source.is_dir():
        return [source]
    places = (f"labels/box_track_20/{part}", f"labels-20/box-track/{part}", part, ".")
    folder = find_folder(source, places, _EXPECTED)
    files = sorted(folder.glob("*.json"))
    if not files:
        msg = f"Expected {_EXPECTED} in {folder}, found none. Set SRC to their folder, or --split."
        raise DataError(msg)
    return files


def _add_frames(file: Path, videos: dict[str, dict[int, _Frame]]) -> None:
    """Add the frames of a file to their videos, and raise one error for all its faults."""
    document = parse_json(read_json(file, _EXPECTED), file)
    if isinstance(document, dict):  # newer files of Scalabel
        document = document.get("frames", document)
    try:
        frames = msgspec.convert(document, list[_Frame])
    except msgspec.ValidationError as error:
        msg = f"{file}: expected {_EXPECTED}: {error}."
        raise DataError(msg) from error
    faults = []
    for place, frame in enumerate(frames):
        name = frame.videoName or file.stem
        if frame.number is None:
            faults.append(f"[{place}]: expected frameIndex or index, found neither")
        elif frame.number in videos[name]:
            where = f"[{place}]: expected one frame {frame.number} of video {shown(name)}"
            faults.append(f"{where}, found {shown(frame.name)} as well")
        else:
            videos[name][frame.number] = frame
        faults += [f"[{place}].{fault}" for fault in _faults(frame, name)]
    raise_faults(file, faults)


def _faults(frame: _Frame, video: str) -> Iterator[str]:
    for field, text in (("name", frame.name), ("videoName", video)):
        if expected := expected_path(text):
            yield f"{field}: expected {expected}, found {shown(text)}"
    for place, label in enumerate(frame.labels or []):
        if label.category not in (*CLASS_NAMES, *_DISTRACTORS):
            known = ", ".join((*CLASS_NAMES, *_DISTRACTORS))
            found = shown(label.category)
            yield f"labels[{place}].category: expected one of {known}; found {found}"
        if not all(map(math.isfinite, msgspec.structs.astuple(label.box2d))):
            yield f"labels[{place}].box2d: expected finite numbers"


def _read(frames: dict[int, _Frame], folder: Path, root: Path) -> Iterator[Frame]:
    for number, frame in sorted(frames.items()):
        path = folder / PurePosixPath(frame.name).name
        boxes = [box for label in frame.labels or [] for box in _boxes(label)]
        yield Frame(relative(path, root), number, image_size(path), boxes)


def _boxes(label: _Label) -> list[Box]:
    found = label.box2d
    corners = (found.x1, found.y1, found.x2 + 1, found.y2 + 1)
    if label.category in _DISTRACTORS:
        return ignored_for_all(Box(0, corners), len(CLASS_NAMES))
    return [
        Box(
            label=_LABELS[label.category],
            xyxy=corners,
            track=str(label.id),
            is_ignored=bool(label.flag("crowd")),
            is_occluded=label.flag("occluded"),
        )
    ]
