"""Reads YouTube-VIS: COCO JSON with videos instead of images, as OVIS and others use it as well.

A video has ``file_names``; an annotation is a track, with a box and a mask for each of these files,
or null where the object is not visible. Without boxes, the boxes of the masks are used. Frames are
numbered from 0, by their place in ``file_names``.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from pycocotools import mask as coco_mask

from vodet.data.annotations.st_coco_tables import Extent, Flag, Id, expected_path
from vodet.data.formats.masks import region_of_runs
from vodet.data.formats.outline import first_entries
from vodet.data.formats.records import Box, Category, Frame, Number, Records, Video
from vodet.data.formats.tables import raise_faults
from vodet.errors import DataError
from vodet.json_files import decode_json, read_json, shown


class _Rle(msgspec.Struct, gc=False):
    size: tuple[int, int]
    counts: str | list[int]


class _Video(msgspec.Struct, gc=False):
    id: Id
    width: Extent
    height: Extent
    file_names: list[str]
    name: str | None = None


class _Annotation(msgspec.Struct, gc=False):
    id: Id
    video_id: Id
    category_id: Id
    bboxes: list[tuple[float, float, float, float] | None] | None = None
    segmentations: list[_Rle | list[list[float]] | None] | None = None
    iscrowd: Flag = False


class _Category(msgspec.Struct, gc=False):
    id: Id
    name: str
    supercategory: str | None = None


class _Document(msgspec.Struct):
    videos: list[_Video]
    annotations: list[_Annotation]
    categories: list[_Category]


def recognises(source: Path) -> bool:
    """Return whether a file is in the format of YouTube-VIS."""
    return "file_names" in first_entries(source).get("videos", {})


def read_youtube_vis(source: Path) -> Records:
    """Read a JSON file in the format of YouTube-VIS.

    Args:
        source: The file.

    Raises:
        DataError: If the file is missing or faulty.
    """
    expected = "annotations of YouTube-VIS (.json or .json.gz)"
    try:
        document = decode_json(read_json(source, expected), _Document, source)
    except msgspec.ValidationError as error:
        msg = f"{source}: expected {expected}: {error}."
        raise DataError(msg) from error
    videos = {video.id: video for video in document.videos}
    labels = {category.id: label for label, category in enumerate(document.categories)}
    _check(source, document, videos, labels)
    tracks: dict[int, list[tuple[int, _Annotation]]] = defaultdict(list)
    for place, annotation in enumerate(document.annotations):
        tracks[annotation.video_id].append((place, annotation))
    names = _names(document.videos)
    categories = [
        Category(category.id, category.name, category.supercategory or category.name)
        for category in document.categories
    ]
    read = (
        Video(names[video.id], _frames(source, video, tracks[video.id], labels))
        for video in document.videos
    )
    return Records(categories, read, sum(len(video.file_names) for video in document.videos))


def _names(videos: list[_Video]) -> dict[int, str]:
    """Return a name for each video: its own, the folder of its frames, or its id."""
    names = {
        video.id: video.name or "".join(video.file_names[:1]).rpartition("/")[0] for video in videos
    }
    counts = Counter(names.values())
    return {key: name if name and counts[name] == 1 else str(key) for key, name in names.items()}


def _check(
    source: Path, document: _Document, videos: dict[int, _Video], labels: dict[int, int]
) -> None:
    """Check ids, file names and lengths, and raise one error for all faults."""
    faults = []
    for table, entries in (("videos", document.videos), ("categories", document.categories)):
        ids = Counter(entry.id for entry in entries)
        repeated = [number for number, count in ids.items() if count > 1]
        faults += [f"{table}.id: expected unique values, found {n} twice" for n in repeated]
    for place, video in enumerate(document.videos):
        for name in video.file_names:
            if expected := expected_path(name):
                where = f"videos[{place}].file_names"
                faults.append(f"{where}: expected {expected}, found {shown(name)}")
    for place, annotation in enumerate(document.annotations):
        for field, value, known in (
            ("video_id", annotation.video_id, videos),
            ("category_id", annotation.category_id, labels),
        ):
            if value not in known:
                table = f"{field.removesuffix('_id').replace('category', 'categorie')}s"
                expected = f"expected the id of an entry in {table}"
                faults.append(f"annotations[{place}].{field}: {expected}, found {value}")
        if video_of := videos.get(annotation.video_id):
            faults += _faults_of_length(place, annotation, len(video_of.file_names))
    raise_faults(source, faults)


def _faults_of_length(place: int, annotation: _Annotation, length: int) -> Iterator[str]:
    fields = {"bboxes": annotation.bboxes, "segmentations": annotation.segmentations}
    for field, values in fields.items():
        if values is not None and len(values) != length:
            expected = f"expected {length} entries, one for each of the file_names"
            yield f"annotations[{place}].{field}: {expected}, found {len(values)}"
    if not any(values is not None for values in fields.values()):
        yield f"annotations[{place}]: expected bboxes or segmentations, found neither"


def _frames(
    source: Path,
    video: _Video,
    tracks: list[tuple[int, _Annotation]],
    labels: dict[int, int],
) -> Iterator[Frame]:
    size = (video.height, video.width)
    for number, file_name in enumerate(video.file_names):
        boxes = []
        for place, track in tracks:
            try:
                found = _box(track, number, size)
            except ValueError as error:
                msg = f"{source}: annotations[{place}], frame {number}: {error}."
                raise DataError(msg) from None
            if found:
                label = labels[track.category_id]
                boxes.append(found._replace(label=label, is_ignored=bool(track.iscrowd)))
        yield Frame(file_name, number, size, boxes)


def _box(track: _Annotation, number: int, size: tuple[int, int]) -> Box | None:
    """Return the box of an object in a frame, without its class."""
    if track.bboxes and (bbox := track.bboxes[number]):
        if not all(map(math.isfinite, bbox)):
            msg = f"bboxes: expected finite numbers, found {list(bbox)}"
            raise ValueError(msg)
        left, top, width, height = bbox
        return Box(0, (left, top, left + width, top + height), str(track.id))
    mask = track.segmentations[number] if track.segmentations else None
    if not mask or track.bboxes:
        return None
    return Box(0, _around(mask, size), str(track.id))


def _around(
    mask: _Rle | list[list[float]], size: tuple[int, int]
) -> tuple[Number, Number, Number, Number]:
    if isinstance(mask, _Rle):
        counts = mask.counts if isinstance(mask.counts, str) else _compressed(mask.counts, size)
        return region_of_runs(0, size, counts).xyxy
    points = [value for polygon in mask for value in polygon]
    if not all(len(polygon) % 2 == 0 and len(polygon) >= 6 for polygon in mask):
        msg = "segmentations: expected polygons of 3 or more points x, y, found another number"
        raise ValueError(msg)
    if not all(map(math.isfinite, points)):
        msg = "segmentations: expected finite numbers in the polygons"
        raise ValueError(msg)
    xs = [x for polygon in mask for x in polygon[::2]]
    ys = [y for polygon in mask for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _compressed(runs: list[int], size: tuple[int, int]) -> str:
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        expected = f"expected runs that cover {size[0]} x {size[1]} pixels"
        msg = f"segmentations: {expected}, found {sum(runs)} pixels"
        raise ValueError(msg)
    encoded: dict[str, Any] = coco_mask.frPyObjects({"size": list(size), "counts": runs}, *size)
    return str(encoded["counts"].decode())
