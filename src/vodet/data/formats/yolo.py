"""Reads data sets in the format of Ultralytics YOLO: a YAML file, images, and a text file each.

The labels of ``images/a/1.jpg`` are in ``labels/a/1.txt``, a line an object: ``class x y width
height`` with the centre of the box, divided by the size of the image. A track id may follow. In
data for segmentation, a line is a class and the points of a polygon; its bounding box is used.
An image without a text file is annotated and has no object.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vodet.data.formats.folders import image_size, named, relative
from vodet.data.formats.records import Box, Frame, Number, Records, Video
from vodet.data.formats.tables import integer, number, parse_lines
from vodet.data.formats.videos_from import group_images
from vodet.data.formats.yolo_yaml import (
    find_images,
    find_yaml,
    read_categories,
    read_yaml,
    splits_in,
)
from vodet.errors import ConfigError, DataError

TOLERANCE = 0.01  # Ultralytics accepts it too; the writer clips the boxes
WITHOUT_IMAGE = "label files without an image"
_NOT_LABELS = "classes.txt"  # written by labelImg beside the labels


class _Line(NamedTuple):
    """A line of a label file: class number, corners from 0 to 1, and track id."""

    number: int
    corners: tuple[Number, Number, Number, Number]
    track: str | None


def recognises(source: Path) -> bool:
    """Return whether a YAML file, or the one in a folder, is of a data set for YOLO."""
    if not source.is_dir() and source.suffix not in (".yaml", ".yml"):
        return False
    try:
        return bool(splits_in(source)) and "names" in read_yaml(find_yaml(source))
    except DataError:
        return False


def read_yolo(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    videos_from: str | None = None,
) -> Records:
    """Read a data set in the format of Ultralytics YOLO.

    Args:
        source: The YAML file, or its folder.
        images: The image root; by default the folder of the YAML file.
        split: ``train``, ``val`` or ``test``; None reads all splits.
        videos_from: How images are grouped into videos, see
            `vodet.data.formats.videos_from.group_images`.

    Raises:
        ConfigError: If the split is not in the YAML file, or ``videos_from`` is invalid or missing
            although the images seem to be frames of videos.
        DataError: If a file or folder is missing or malformed.
    """
    file = find_yaml(source)
    config = read_yaml(file)
    categories = read_categories(config, file)
    chosen = splits_in(source) if split is None else [named("--split", split, splits_in(source))]
    paths = list(dict.fromkeys(path for name in chosen for path in find_images(config, name, file)))
    skipped: Counter[str] = Counter()
    skipped[WITHOUT_IMAGE] = _check_labels(paths)
    root = images or file.parent
    names = [_below(path, root) for path in paths]
    groups = group_images(file, names, videos_from)
    labels = {category.id: label for label, category in enumerate(categories)}

    def frame(place: tuple[int, int]) -> Frame:
        frame_number, position = place
        size = image_size(paths[position])
        boxes = _boxes(_labels_of(paths[position]), labels, size)
        return Frame(names[position], frame_number, size, boxes)

    videos = (Video(name, map(frame, frames)) for name, frames in groups.items())
    return Records(categories, videos, len(paths), +skipped)


def _labels_of(image: Path) -> Path:
    before, separator, after = str(image).rpartition("/images/")
    return Path(f"{before}/labels/{after}" if separator else after).with_suffix(".txt")


def _check_labels(images: Sequence[Path]) -> int:
    """Check that some images have labels, and return how many label files have no image."""
    expected: dict[Path, set[str]] = defaultdict(set)
    for path in map(_labels_of, images):
        expected[path.parent].add(path.name)
    there = {
        folder: {name for name in os.listdir(folder) if name.endswith(".txt")}  # noqa: PTH208
        for folder in expected
        if folder.is_dir()
    }
    if not any(names & expected[folder] for folder, names in there.items()):
        example = f"{images[0]} should have its labels in {_labels_of(images[0])}"
        msg = f"Expected label files for {len(images)} images, found none. {example}."
        raise DataError(msg)
    return sum(len(names - expected[folder] - {_NOT_LABELS}) for folder, names in there.items())


def _below(image: Path, root: Path) -> str:
    try:
        return relative(image, Path(os.path.normpath(root)))
    except ValueError:
        msg = (
            f"Expected images below the image root {root}, found {image}. Set --images to a folder "
            "that contains all images."
        )
        raise ConfigError(msg) from None


def _boxes(file: Path, labels: dict[int, int], size: tuple[int, int]) -> list[Box]:
    if not file.exists():
        return []

    def parse(text: str) -> Box:
        line = _parse_line(text)
        if line.number not in labels:
            numbers = ", ".join(map(str, labels))
            msg = f"expected a class number that has a name ({numbers}), found {line.number}"
            raise ValueError(msg)
        height, width = size
        left, top, right, bottom = line.corners
        corners = (left * width, top * height, right * width, bottom * height)
        return Box(labels[line.number], corners, line.track)

    return [box for _, box in parse_lines(file, parse)]


def _parse_line(text: str) -> _Line:
    parts = text.split()
    is_polygon = len(parts) >= 7 and len(parts) % 2 == 1
    if len(parts) not in (5, 6) and not is_polygon:
        msg = (
            "expected `class x y width height`, with or without a track id, or a class and 3 or "
            f"more points; found {len(parts)} values"
        )
        raise ValueError(msg)
    values = [number(part) for part in (parts[1:] if is_polygon else parts[1:5])]
    if wrong := [value for value in values if not -TOLERANCE <= value <= 1 + TOLERANCE]:
        msg = f"expected values from 0 to 1, divided by the size of the image; found {wrong[0]}"
        raise ValueError(msg)
    label = integer(str(number(parts[0])))
    if is_polygon:
        xs, ys = values[::2], values[1::2]
        return _Line(label, (min(xs), min(ys), max(xs), max(ys)), None)
    x, y, width, height = values
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return _Line(label, corners, _track(parts[5]) if len(parts) == 6 else None)


def _track(text: str) -> str:
    try:
        return str(integer(text))
    except ValueError:
        msg = f"expected an integer, the track id, as the sixth value; found {text}"
        raise ValueError(msg) from None
