"""Reads COCO detection files. Each image becomes a video, or images are grouped into videos."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vodet.data.annotations.st_coco_tables import (
    Area,
    Extent,
    Flag,
    FrameNumber,
    Id,
    VideoEntry,
    expected_path,
)
from vodet.data.formats.folders import image_size
from vodet.data.formats.outline import first_entries
from vodet.data.formats.records import Box, Category, Frame, Records, Video
from vodet.data.formats.tables import raise_faults
from vodet.data.formats.videos_from import Place, group_images
from vodet.errors import ConfigError, DataError
from vodet.json_files import check_tables, decode_json, read_json, shown


class _Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    height: Extent
    width: Extent
    video: str | None = None
    video_id: int | str | None = None
    frame_number: FrameNumber | None = None
    frame_id: FrameNumber | None = None
    is_annotated: Flag = True


class _Annotation(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: Area | None = None
    iscrowd: Flag = False
    ignore: Flag = False
    id_track: int | str | None = None
    track_id: int | str | None = None
    instance_id: int | str | None = None
    attributes: Any = None  # CVAT writes an object with track_id


class _Category(msgspec.Struct, gc=False):
    id: Id
    name: str
    supercategory: str | None = None


class _Document(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]
    videos: list[VideoEntry] = []


class _Named(msgspec.Struct):
    """The tables that a COCO file has even without annotations, such as for a test set."""

    images: list[_Image]
    categories: list[_Category]


Document = TypeVar("Document", _Document, _Named)


def recognises(source: Path) -> bool:
    """Return whether a file is a COCO detection file without videos."""
    tables = first_entries(source)
    image = tables.get("images", {})
    return {"images", "annotations", "categories"} <= tables.keys() and not (
        image.keys() & {"video", "video_id"}
    )


def read_coco(
    source: Path,
    *,
    images: Path | None = None,
    check_sizes: bool = False,
    videos_from: str | None = None,
) -> Records:
    """Read a COCO detection file; masks and keypoints are ignored.

    The track of an object is read from ``id_track``, ``track_id``, ``instance_id`` or
    ``attributes.track_id``.

    Args:
        source: The JSON file. The file names of images are kept.
        images: The image root; required if ``check_sizes`` is set.
        check_sizes: Whether every image is opened to compare its size with the annotated size. A
            missing image or a different size raises FrameError while the videos are iterated.
        videos_from: How images are grouped into videos, see
            `vodet.data.formats.videos_from.group_images`.

    Raises:
        ConfigError: If ``check_sizes`` is set without ``images``, or ``videos_from`` is invalid or
            missing although the images seem to be frames of videos.
        DataError: If the file is missing or faulty.
    """
    document = _read(source, _Document)
    if check_sizes and images is None:
        msg = "--check-sizes: expected the image root, found none. Set --images."
        raise ConfigError(msg)
    root = images if check_sizes else None
    labels = {category.id: label for label, category in enumerate(document.categories)}
    _check(source, document, labels)
    names = [image.file_name for image in document.images]
    videos = group_images(source, names, videos_from, _places(document))
    categories = [
        Category(category.id, category.name, category.supercategory or category.name)
        for category in document.categories
    ]
    return Records(categories, _videos(document, videos, labels, root), len(document.images))


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
        *_repeated("images.file_name", [image.file_name for image in images]),
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


def _places(document: _Document) -> list[Place | None]:
    """Return the video and the frame number that the entry of each image has, if it has both."""
    names = {video.id: video.name for video in document.videos}
    places: list[Place | None] = []
    for image in document.images:
        video = image.video
        if video is None and image.video_id is not None:
            video = names.get(image.video_id, str(image.video_id))
        number = image.frame_id if image.frame_number is None else image.frame_number
        places.append(Place(video, number) if video is not None and number is not None else None)
    return places


def _videos(
    document: _Document,
    videos: dict[str, list[tuple[int, int]]],
    labels: dict[int, int],
    root: Path | None,
) -> Iterator[Video]:
    attributes = {video.name: video.attributes for video in document.videos}
    boxes: dict[int, list[Box]] = defaultdict(list)
    for annotation in document.annotations:
        boxes[annotation.image_id].append(_box(annotation, labels))

    def frame(number: int, image: _Image) -> Frame:
        size = (image.height, image.width)
        if root is not None:
            image_size(root / image.file_name, size)
        found = boxes.pop(image.id, [])
        return Frame(image.file_name, number, size, found, bool(image.is_annotated))

    for name, frames in videos.items():
        images = ((number, document.images[position]) for number, position in frames)
        yield Video(name, (frame(*image) for image in images), attributes.get(name))


def _box(annotation: _Annotation, labels: dict[int, int]) -> Box:
    left, top, width, height = annotation.bbox
    attributes = annotation.attributes if isinstance(annotation.attributes, dict) else {}
    tracks = (annotation.id_track, annotation.track_id, annotation.instance_id)
    track = next((track for track in tracks if track is not None), attributes.get("track_id"))
    occluded = attributes.get("occluded")
    return Box(
        label=labels[annotation.category_id],
        xyxy=(left, top, left + width, top + height),
        track=None if track is None else str(track),
        area=annotation.area,
        is_ignored=bool(annotation.iscrowd or annotation.ignore),
        is_occluded=occluded if isinstance(occluded, bool) else None,
    )
