"""Reads the objects of the 30 VID classes in ImageNet DET; each image becomes a video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vodet.data.formats.folders import image_size, named, relative
from vodet.data.formats.imagenet import CLASSES, LABELS, SPLITS
from vodet.data.formats.imagenet_files import Files
from vodet.data.formats.imagenet_lists import read_list
from vodet.data.formats.imagenet_xml import XmlFrame, parse_all
from vodet.data.formats.outline import holds
from vodet.data.formats.records import Box, Frame, Records, Video, categories_of

OTHER_CLASS = "objects outside the 30 classes of VID"
NO_OBJECT = "images without an object of the 30 classes"


def recognises(source: Path) -> bool:
    """Return whether a folder holds ImageNet DET."""
    return holds(source, "Annotations/DET")


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
    """Read the objects of the 30 classes of VID in a split of ImageNet DET.

    Args:
        source: The folder with ``Annotations`` and ``Data``, usually ``ILSVRC2015``.
        images: The image root, with ``Data/DET``; by default ``source``.
        split: ``train`` or ``val``.
        frames: A file with ``path number`` per line, such as ``DET_train_30classes.txt``, which
            lists the images to read; by default, all images with an XML file are read.
        keep_empty: Whether images without an annotated object of the 30 classes are kept.
        workers: Number of parsing processes; by default one per processor.
        check_sizes: Whether every image is opened to compare its size with the annotated size.

    Raises:
        DataError: If a file or folder is missing or malformed.
    """
    split = named("--split", split, SPLITS)
    root = images or source
    xml = Files(source, "Annotations", f"DET/{split}")
    pictures = Files(root, "Data", f"DET/{split}")
    skipped: Counter[str] = Counter()
    names = _listed_names(frames, split) if frames else _names_of(xml)
    parsed = parse_all(map(xml.path, names), workers)

    def videos() -> Iterator[Video]:
        for name, file in zip(names, parsed, strict=True):
            boxes = _boxes(file, skipped)
            if not boxes and not keep_empty:
                skipped[NO_OBJECT] += 1
                continue
            folder, _, stem = name.rpartition("/")
            pictures.expect(folder, [stem])
            image = pictures.path(name)
            size = image_size(image, file.size) if check_sizes else file.size
            yield Video(f"{split}/{name}", [Frame(relative(image, root), 0, size, boxes)])

    return Records(categories_of(list(CLASSES.values())), videos(), None, skipped)


def _listed_names(path: Path, split: str) -> list[str]:
    selection = read_list(path, split)
    # `read_list` takes an image whose name has six digits for a frame of a video.
    return [
        f"{video}/{frame:06d}" if frames else video
        for video, frames in selection.frames.items()
        for frame in frames or [0]
    ]


def _names_of(xml: Files) -> list[str]:
    return [
        f"{folder}/{stem}".removeprefix("./")  # files of val are in no subfolder
        for folder, stems in xml.walk()
        for stem in stems
    ]


def _boxes(parsed: XmlFrame, skipped: Counter[str]) -> list[Box]:
    boxes = []
    for name, (left, top, right, bottom), _, is_occluded in parsed.objects:
        if name in LABELS:
            box = Box(LABELS[name], (left, top, right, bottom), is_occluded=is_occluded)
            boxes.append(box)
        else:
            skipped[OTHER_CLASS] += 1
    return boxes
