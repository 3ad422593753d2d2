"""ImageNet DET, the objects of the 30 classes of VID: each image a video of one frame."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vodet.data.formats.folders import find_folder, image_size, named, relative
from vodet.data.formats.imagenet import CLASSES, LABELS, SPLITS, stems
from vodet.data.formats.imagenet_lists import read_list
from vodet.data.formats.imagenet_xml import XmlFrame, parse_all
from vodet.data.formats.records import Box, Frame, Records, Video, categories_of
from vodet.errors import DataError

OTHER_CLASS = "objects outside the 30 classes of VID"
NO_OBJECT = "images without an object of the 30 classes"


def read_imagenet_det(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    frames: Path | None = None,
    keep_empty: bool = False,
    workers: int | None = None,
    check_sizes: bool = False,
) -> Records:
    """Read ImageNet DET.

    Args:
        source: The folder with ``Annotations`` and ``Data``: ``ILSVRC2015``.
        images: Image root, with ``Data/DET``, if it is elsewhere.
        split: ``train`` or ``val``.
        frames: A list with ``path number`` a line, as ``DET_train_30classes.txt``; by default
            every XML file.
        keep_empty: Whether images are kept in which no object of the 30 classes is annotated.
        workers: Number of processes that parse; by default one per processor.
        check_sizes: Whether every image is opened to compare its size.

    Raises:
        DataError: If something is missing or malformed.
    """
    split = named("--split", split, SPLITS)
    annotations = find_folder(source, (f"Annotations/DET/{split}",), "annotations of DET")
    root = images or source
    pixels = find_folder(root, (f"Data/DET/{split}",), "images of DET")
    skipped: Counter[str] = Counter()
    names = _listed_names(frames, split) if frames else _names_below(annotations)
    parsed = parse_all((annotations / f"{name}.xml" for name in names), workers or _processors())

    def videos() -> Iterator[Video]:
        missing = _Existing(pixels)
        for name, file in zip(names, parsed, strict=True):
            boxes = _boxes(file, skipped)
            if not boxes and not keep_empty:
                skipped[NO_OBJECT] += 1
                continue
            missing.expect(name)
            image = pixels / f"{name}.JPEG"
            size = image_size(image, file.size) if check_sizes else file.size
            yield Video(f"{split}/{name}", [Frame(relative(image, root), 0, size, boxes)])

    return Records(categories_of(list(CLASSES.values())), videos(), None, skipped)


def _processors() -> int:
    return os.cpu_count() or 1


def _listed_names(path: Path, split: str) -> list[str]:
    selection = read_list(path, split)
    # An image of six digits would look like a frame of a video.
    return [
        f"{video}/{frame:06d}" if frames else video
        for video, frames in selection.frames.items()
        for frame in frames or [0]
    ]


def _names_below(folder: Path) -> list[str]:
    names = []
    for place, folders, files in os.walk(folder):
        folders.sort()
        xml = sorted(name.removesuffix(".xml") for name in files if name.endswith(".xml"))
        names += [relative(Path(place) / name, folder) for name in xml]
    return names


class _Existing:
    """Tells whether images are there; lists each folder once, which is faster than asking."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder, self._stems = "", set[str]()

    def expect(self, name: str) -> None:
        """Refuse an image that is missing."""
        folder, _, stem = name.rpartition("/")
        if folder != self._folder or not self._stems:
            self._folder, self._stems = folder, stems(self._root / folder, ".JPEG")
        if stem not in self._stems:
            msg = f"Expected an image of an XML file at {self._root / name}.JPEG, found none."
            raise DataError(msg)


def _boxes(parsed: XmlFrame, skipped: Counter[str]) -> list[Box]:
    boxes = []
    for name, (left, top, right, bottom), _, is_occluded in parsed.objects:
        if name in LABELS:
            box = Box(LABELS[name], (left, top, right, bottom), is_occluded=is_occluded)
            boxes.append(box)
        else:
            skipped[OTHER_CLASS] += 1
    return boxes
