"""Computes boxes of masks, which are stored as images of ids or in COCO's compressed RLE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from scipy.ndimage import find_objects

from vodet.errors import FrameError
from vodet.files import read_file
from vodet.pictures import PNG_START, read_header


class Region(NamedTuple):
    """The id of a mask, its tight box and its area in pixels."""

    id: int
    xyxy: tuple[int, int, int, int]
    area: int


def regions_of_ids(ids: np.ndarray) -> Iterator[Region]:
    """Yield the region of each id in an image of ids, including id 0, in ascending order of id.

    Args:
        ids: The id of the mask at each pixel, integers ``[height, width]``.
    """
    values, positions, areas = np.unique(ids, return_inverse=True, return_counts=True)
    boxes = find_objects(positions.reshape(ids.shape) + 1)
    for value, (rows, columns), area in zip(values.tolist(), boxes, areas.tolist(), strict=True):
        yield Region(value, (columns.start, rows.start, columns.stop, rows.stop), area)


def connected_regions(mask: np.ndarray, mask_id: int) -> Iterator[Region]:
    """Yield the region of each connected part of a mask, with 8-connectivity.

    Args:
        mask: Bool ``[height, width]``.
        mask_id: Id that all regions get.
    """
    count, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    for left, top, width, height, area in statistics[1:count].tolist():
        yield Region(mask_id, (left, top, left + width, top + height), area)


def region_of_runs(mask_id: int, size: tuple[int, int], counts: str) -> Region:
    """Return the region of a mask that is stored in compressed RLE; an empty mask has area 0.

    Args:
        mask_id: Id of the mask.
        size: ``(height, width)`` of the image.
        counts: The run lengths in COCO's compressed format.

    Raises:
        ValueError: If the run lengths do not add up to the number of pixels of the image.
    """
    # pycocotools does not check the total length of the runs.
    if (length := _length_of_runs(counts)) != size[0] * size[1]:
        found = "a string that is not a compressed RLE" if length is None else f"{length} pixels"
        msg = f"rle: expected runs that cover {size[0]} x {size[1]} pixels, found {found}"
        raise ValueError(msg)
    encoded = {"size": list(size), "counts": counts.encode()}
    left, top, width, height = (int(value) for value in coco_mask.toBbox(encoded))
    xyxy = (left, top, left + width, top + height)
    return Region(mask_id, xyxy, int(coco_mask.area(encoded)))


def read_ids(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a PNG whose 8-bit or 16-bit pixel values are ids of masks.

    Args:
        path: The PNG.
        size: ``(height, width)`` that the PNG should have.

    Raises:
        FrameError: If the PNG is missing or damaged, or has several channels or another size.
    """
    try:
        data = read_file(path)
    except OSError as error:
        msg = f"Cannot read the instance masks {path}: {error}. Is the data set complete?"
        raise FrameError(msg) from error
    header = read_header(data)
    if header is not None and header.stored_size != size:
        found = f"{header.stored_size[0]} x {header.stored_size[1]}"
        expected = f"the image size {size[0]} x {size[1]} (height x width)"
        msg = f"{path}: expected {expected}, found {found}."
        raise FrameError(msg)
    is_png = header is not None and data.startswith(PNG_START)
    ids = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if is_png else None
    if ids is None or ids.ndim != 2:
        found = "a file that cannot be decoded" if ids is None else f"{ids.shape[2]} channels"
        msg = f"Expected instance masks, a PNG with one channel of ids, at {path}; found {found}."
        raise FrameError(msg)
    return np.asarray(ids)


def _length_of_runs(counts: str) -> int | None:
    """Return the number of pixels that compressed run lengths cover; None if they are malformed.

    Each character minus 48 holds five bits of a number, lowest bits first; bit 5 is set if more
    characters of the number follow. From the fourth number, a run is the sum of the number and the
    run two places before it.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode():
        bits = character - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        if runs[-1] < 0:
            return None
        value = shift = 0
    return None if shift else sum(runs)
