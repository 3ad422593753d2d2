"""Reads Pascal VOC: ``JPEGImages``, ``Annotations`` (XML) and ``ImageSets/Main/SPLIT.txt``.

The corners of a box count pixels from 1 and include both ends, as in the development kit of VOC.
Tools such as labelImg write this format with coordinates that count from 0. Difficult objects are
ignore regions.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from vodet.data.formats.folders import IMAGE_SUFFIXES, find_folder, image_size, named, relative
from vodet.data.formats.outline import first_file, has_root, holds
from vodet.data.formats.records import Box, Frame, Number, Records, Video, categories_of
from vodet.data.formats.tables import integer, number, one_of, parse_lines
from vodet.data.formats.videos_from import group_images
from vodet.data.formats.xml_files import content, read_xml
from vodet.errors import DataError

NO_XML = "images without an XML file"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Object(NamedTuple):
    """An object: its class, its box, and whether it is difficult or occluded."""

    name: str
    xyxy: tuple[Number, Number, Number, Number]
    is_difficult: bool
    is_occluded: bool | None


class _Picture(NamedTuple):
    """The content of an XML file: ``(height, width)`` if it is known, and the objects."""

    size: tuple[int, int] | None
    objects: list[_Object]


def recognises(source: Path) -> bool:
    """Return whether a folder holds Pascal VOC."""
    places = ("Annotations/*.xml", "Annotations/*/*.xml", "*.xml")
    files = [first_file(source, place) for place in places]
    is_imagenet = holds(source, "Annotations/VID", "Annotations/DET")
    return not is_imagenet and any(has_root(file, "annotation") for file in files)


def read_voc(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    videos_from: str | None = None,
    zero_based: bool = False,
) -> Records:
    """Read a data set in the format of Pascal VOC. The classes are sorted by name.

    Args:
        source: The folder of ``Annotations``, or a folder of XML files.
        images: The image root, with the images directly or in ``JPEGImages``; by default
            ``source``.
        split: Name of a file in ``ImageSets/Main``; None reads all annotated images.
        videos_from: How images are grouped into videos, see
            `vodet.data.formats.videos_from.group_images`.
        zero_based: Whether corners count from 0 and exclude the right and lower end, as in files of
            labelImg.

    Raises:
        ConfigError: If there is no such split, or ``videos_from`` is invalid or missing although
            the images seem to be frames of videos.
        DataError: If a file or folder is missing or malformed.
    """
    annotations = find_folder(source, ("Annotations", "."), "annotations of VOC")
    files = _files(annotations, source, split)
    # All files, so that every split has the same classes.
    read = {file: _read(file, zero_based=zero_based) for file in _files(annotations, source, None)}
    annotated = [read[file] for file in files]
    root = images or source
    folder = find_folder(root, ("JPEGImages", "."), "images of VOC")
    pictures = [_image(file.relative_to(annotations), folder) for file in files]
    names = [relative(picture, root) for picture in pictures]
    skipped = Counter({NO_XML: 0 if split else _count_images(folder) - len(set(pictures))})
    class_names = sorted({thing.name for found in read.values() for thing in found.objects})
    labels = {name: label for label, name in enumerate(class_names)}

    def frame(place: tuple[int, int]) -> Frame:
        frame_number, position = place
        boxes = [
            Box(labels[thing.name], thing.xyxy, None, None, thing.is_difficult, thing.is_occluded)
            for thing in annotated[position].objects
        ]
        size = image_size(pictures[position], annotated[position].size)
        return Frame(names[position], frame_number, size, boxes)

    groups = group_images(annotations, names, videos_from)
    videos = (Video(name, map(frame, frames)) for name, frames in groups.items())
    return Records(categories_of(class_names), videos, len(files), +skipped)


def splits_in(source: Path) -> list[str]:
    """Return the splits in ``ImageSets/Main``, without the lists of single classes.

    Raises:
        DataError: If there is no split.
    """
    lists = sorted((source / "ImageSets/Main").glob("*.txt"))
    stems = [file.stem for file in lists]
    found = [stem for stem in stems if not any(stem.endswith(f"_{other}") for other in stems)]
    if not found:
        msg = (
            f"Expected lists of images such as train.txt in {source / 'ImageSets/Main'}, found "
            "none. To convert all images without --split, set DST to a file that ends in .json."
        )
        raise DataError(msg)
    return found


def _files(annotations: Path, source: Path, split: str | None) -> list[Path]:
    if split is None:
        found = sorted(annotations.rglob("*.xml"))
        if not found:
            msg = f"Expected XML files in {annotations}, found none."
            raise DataError(msg)
        return found
    named("--split", split, splits_in(source))
    listed_in = source / "ImageSets/Main" / f"{split}.txt"

    def find(text: str) -> Path:
        file = annotations / f"{text.split()[0]}.xml"
        if not file.is_file():
            msg = f"expected an annotation at {file}, found none"
            raise ValueError(msg)
        return file

    return [file for _, file in parse_lines(listed_in, find)]


def _image(name: Path, folder: Path) -> Path:
    """Return the image of an XML file, given the path of the file in its folder."""
    stem = folder / name.with_suffix("")
    for suffix in (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)):
        if (path := stem.with_name(stem.name + suffix)).is_file():
            return path
    msg = (
        f"Expected an image for the annotation {name} at {stem}.jpg, found none; other suffixes "
        "were tried as well. Set --images to the folder of the images."
    )
    raise DataError(msg)


def _count_images(folder: Path) -> int:
    return sum(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*"))


def _read(file: Path, *, zero_based: bool) -> _Picture:
    root = read_xml(file, "annotation", "an annotation of VOC")
    try:
        size = tuple(content(root, f"size/{side}", integer) for side in ("height", "width"))
        objects = [_object(element, zero_based=zero_based) for element in root.findall("object")]
    except ValueError as error:
        msg = f"{file}: {error}."
        raise DataError(msg) from None
    # labelImg writes a size of 0 if it does not know the size.
    return _Picture((size[0], size[1]) if all(size) else None, objects)


def _object(element: Element, *, zero_based: bool) -> _Object:
    left, top, right, bottom = (content(element, f"bndbox/{c}", number) for c in _CORNERS)
    first = 0 if zero_based else 1
    return _Object(
        content(element, "name", str),
        (left - first, top - first, right, bottom),
        bool(_flag(element, "difficult")),
        _flag(element, "occluded"),
    )


def _flag(element: Element, name: str) -> bool | None:
    return None if element.find(name) is None else content(element, name, one_of(0, 1)) == 1
