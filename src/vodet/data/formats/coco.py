"""Reads COCO detection files; each image becomes a video of one frame."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from vodet.data.annotations.st_coco_tables import Area, Extent, Flag, Id, expected_path
from vodet.data.formats.folders import image_size
from vodet.data.formats.records import Box, Category, Frame, Records, Video
from vodet.data.formats.tables import raise_faults
from vodet.errors import ConfigError, DataError
from vodet.json_files import check_tables, decode_json, read_json, shown


class _Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    height: Extent
    width: Extent


class _Annotation(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: Area | None = None
    iscrowd: Flag = False
    ignore: Flag = False


class _Category(msgspec.Struct, gc=False):
    id: Id
    name: str
    supercategory: str | None = None


class _Document(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Named(msgspec.Struct):
    """The tables that a COCO file has even without annotations, such as for a test set."""

    images: list[_Image]
    categories: list[_Category]


Document = TypeVar("Document", _Document, _Named)


def read_coco(source: Path, *, images: Path | None = None, check_sizes: bool = False) -> Records:
    """Read a COCO detection file; masks and keypoints are ignored.

    Args:
        source: The JSON file. The file names of images are kept.
        images: The image root; required if ``check_sizes`` is set.
        check_sizes: Whether every image is opened to compare its size with the annotated size. A
            missing image or a different size raises FrameError while the videos are iterated.

    Raises:
        ConfigError: If ``check_sizes`` is set without ``images``.
        DataError: If the file is missing or faulty.
    """
    document = _read(source, _Document)
    if check_sizes and images is None:
        msg = "--check-sizes: expected the image root, found none. Set --images."
        raise ConfigError(msg)
    root = images if check_sizes else None
    labels = {category.id: label for label, category in enumerate(document.categories)}
    _check(source, document, labels)
    categories = [
        Category(category.id, category.name, category.supercategory or category.name)
        for category in document.categories
    ]
    return Records(categories, _videos(document, labels, root), len(document.images))


def read_coco_ids(source: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return the ids of the images by file name, and the ids of the categories by name.

    Args:
        source: A COCO detection file, with or without annotations.

    Raises:
        DataError: If the file is missing or faulty.
    """
    document = _read(source, _Named)
    raise_faults(
        source, [*_repeated("images.file_name", [image.file_name for image in document.images])]
    )
    images = {image.file_name: image.id for image in document.images}
    return images, {category.name: category.id for category in document.categories}


def _read(source: Path, kind: type[Document]) -> Document:
    data = read_json(source, "a COCO detection file (.json or .json.gz)")
    check_tables(data, source)
    try:
        return decode_json(data, kind, source)
    except msgspec.ValidationError as error:
        msg = f"{source}: not a COCO detection file: {error}."
        raise DataError(msg) from error


def _check(source: Path, document: _Document, labels: dict[int, int]) -> None:
    """Check ids, names, paths and boxes, and raise one error for all faults."""
    images, categories = document.images, document.categories
    ids = {image.id for image in images}
    faults = [
        *_repeated("images.id", [image.id for image in images]),
        *_repeated("images.file_name without suffix", [_video_name(image) for image in images]),
        *_repeated("categories.id", [category.id for category in categories]),
        *_repeated("categories.name", [category.name for category in categories]),
    ]
    for place, image in enumerate(images):
        if expected := expected_path(image.file_name):
            found = shown(image.file_name)
            faults.append(f"images[{place}].file_name: expected {expected}, found {found}")
    for place, annotation in enumerate(document.annotations):
        if not all(map(math.isfinite, annotation.bbox)):
            bbox = list(annotation.bbox)
            faults.append(f"annotations[{place}].bbox: expected finite numbers, found {bbox}")
        for table, field, value, known in (
            ("images", "image_id", annotation.image_id, ids),
            ("categories", "category_id", annotation.category_id, labels),
        ):
            if value not in known:
                expected = f"expected the id of an entry in {table}"
                faults.append(f"annotations[{place}].{field}: {expected}, found {value}")
    raise_faults(source, faults)


Value = TypeVar("Value", int, str)


def _repeated(field: str, values: list[Value]) -> Iterator[str]:
    seen: set[Value] = set()
    for value in values:
        if value in seen:
            yield f"{field}: expected unique values, found {shown(value)} twice"
        seen.add(value)


def _video_name(image: _Image) -> str:
    return image.file_name.rpartition(".")[0] or image.file_name


def _videos(document: _Document, labels: dict[int, int], root: Path | None) -> Iterator[Video]:
    boxes: dict[int, list[Box]] = defaultdict(list)
    for annotation in document.annotations:
        boxes[annotation.image_id].append(_box(annotation, labels))
    for image in document.images:
        size = (image.height, image.width)
        if root is not None:
            image_size(root / image.file_name, size)
        frame = Frame(image.file_name, 0, size, boxes.pop(image.id, []))
        yield Video(_video_name(image), [frame])


def _box(annotation: _Annotation, labels: dict[int, int]) -> Box:
    left, top, width, height = annotation.bbox
    return Box(
        label=labels[annotation.category_id],
        xyxy=(left, top, left + width, top + height),
        area=annotation.area,
        is_ignored=bool(annotation.iscrowd or annotation.ignore),
    )
