"""Computes boxes from the annotations of Cityscapes: polygons or images of instance ids."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image, ImageDraw

from vodet.data.formats.masks import connected_regions, read_ids, regions_of_ids
from vodet.data.formats.records import Box
from vodet.errors import DataError
from vodet.json_files import decode_json, read_json

# Id, name and group of the classes with instances that are evaluated.
CLASSES = {
    24: ("person", "human"),
    25: ("rider", "human"),
    26: ("car", "vehicle"),
    27: ("truck", "vehicle"),
    28: ("bus", "vehicle"),
    31: ("train", "vehicle"),
    32: ("motorcycle", "vehicle"),
    33: ("bicycle", "vehicle"),
}
_LABELS = {name: label for label, (name, _) in enumerate(CLASSES.values())}
_LABEL_OF_ID = {number: label for label, number in enumerate(CLASSES)}
_LAST_ID = 33
NOT_EVALUATED = ("caravan", "trailer")  # ids 29 and 30: have instances, but are not evaluated
_OTHERS = {
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic"),
    *("ground", "road", "sidewalk", "parking", "rail track", "building", "wall", "fence"),
    *("guard rail", "bridge", "tunnel", "pole", "polegroup", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", *NOT_EVALUATED),
}
_NOT_DRAWN = "license plate"  # has id -1, so the official images of ids lack it

COVERED = "objects entirely covered by others or outside the image"
DELETED = "polygons marked as deleted"
OTHER_CLASS = "instances of classes that are not evaluated (caravan, trailer)"


class _Polygon(msgspec.Struct):
    label: str
    polygon: list[tuple[float, float]]
    deleted: bool | int = False


class _Polygons(msgspec.Struct):
    imgHeight: int  # noqa: N815  the names in the files
    imgWidth: int  # noqa: N815
    objects: list[_Polygon]


def polygon_boxes(path: Path, size: tuple[int, int], skipped: Counter[str]) -> list[Box]:
    """Return the boxes of the visible parts of polygons; a polygon covers the polygons before it.

    Args:
        path: A file ``*_polygons.json``.
        size: ``(height, width)`` of the image.
        skipped: Counts the objects that are left out, by reason.

    Raises:
        DataError: If the file is malformed or describes an image of another size.
    """
    document = _read_polygons(path)
    if (document.imgHeight, document.imgWidth) != size:
        found = f"{document.imgHeight} x {document.imgWidth}"
        expected = f"the image size {size[0]} x {size[1]} (height x width)"
        msg = f"{path}: expected {expected}, found {found}."
        raise DataError(msg)
    canvas = Image.new("I", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    drawn: list[tuple[int, bool]] = []  # label and whether it is a group, for ids 1, 2, ...
    for place, shape in enumerate(document.objects):
        label, is_group = _label_of(shape, f"{path}: objects[{place}]")
        if shape.deleted:
            skipped[DELETED] += 1
        elif shape.label.removesuffix("group") != _NOT_DRAWN:
            if label is not None:
                drawn.append((label, is_group))
            elif shape.label.removesuffix("group") in NOT_EVALUATED:
                skipped[OTHER_CLASS] += 1
            draw.polygon(shape.polygon, fill=0 if label is None else len(drawn))
    return _boxes_of_canvas(np.asarray(canvas), drawn, skipped)


def instance_id_boxes(path: Path, size: tuple[int, int], skipped: Counter[str]) -> list[Box]:
    """Return the boxes in an image of instance ids.

    An id of a group of objects gives one ignore region for each connected part.

    Args:
        path: A file ``*_instanceIds.png``.
        size: ``(height, width)`` of the image.
        skipped: Counts the objects that are left out, by reason.

    Raises:
        FrameError: If the file cannot be read or has another size.
        DataError: If an id belongs to no class of Cityscapes.
    """
    ids = read_ids(path, size)
    boxes = []
    for region in regions_of_ids(ids):
        is_group = region.id < 1000
        number = region.id if is_group else region.id // 1000
        label = _LABEL_OF_ID.get(number)
        if number > _LAST_ID:
            msg = (
                f"{path}: expected ids of labels 0 to {_LAST_ID}, that is label or label * 1000 + "
                f"instance; found {region.id}."
            )
            raise DataError(msg)
        if label is None:
            if not is_group:
                skipped[OTHER_CLASS] += 1
        elif is_group:
            parts = connected_regions(ids == region.id, region.id)
            boxes += [Box(label, part.xyxy, None, part.area, is_ignored=True) for part in parts]
        else:
            boxes.append(Box(label, region.xyxy, None, region.area))
    return boxes


def _read_polygons(path: Path) -> _Polygons:
    data = read_json(path, "polygons of Cityscapes")
    try:
        document = decode_json(data, _Polygons, path)
    except msgspec.ValidationError as error:
        msg = (
            f"{path}: cannot be read as a Cityscapes polygon file: {error}. Replace the file with "
            "the original."
        )
        raise DataError(msg) from error
    for place, shape in enumerate(document.objects):
        if len(shape.polygon) < 3:
            found = f"{len(shape.polygon)} points"
            msg = f"{path}: objects[{place}].polygon: expected at least 3 points, found {found}."
            raise DataError(msg)
    return document


def _label_of(shape: _Polygon, place: str) -> tuple[int | None, bool]:
    """Return the label of a polygon, None if it is not evaluated, and whether it is a group."""
    is_group = shape.label.endswith("group") and shape.label not in _OTHERS  # e.g. `polegroup`
    name = shape.label.removesuffix("group") if is_group else shape.label
    if name not in _LABELS and name not in _OTHERS and name != _NOT_DRAWN:
        known = ", ".join(_LABELS)
        msg = (
            f"{place}.label: expected a label of Cityscapes ({known}, ...), found {shape.label!r}."
        )
        raise DataError(msg)
    return _LABELS.get(name), is_group


def _boxes_of_canvas(
    canvas: np.ndarray, drawn: list[tuple[int, bool]], skipped: Counter[str]
) -> list[Box]:
    boxes = []
    for region in regions_of_ids(canvas):
        if region.id:
            label, is_group = drawn[region.id - 1]
            boxes.append(Box(label, region.xyxy, None, region.area, is_group))
    if len(boxes) < len(drawn):
        skipped[COVERED] += len(drawn) - len(boxes)
    return boxes
