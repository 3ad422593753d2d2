"""Boxes of masks, stored as images of ids or as COCO's compressed run lengths."""

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
    """A mask: its id, its tight box and its number of pixels."""

    id: int
    xyxy: tuple[int, int, int, int]
    area: int


def regions_of_ids(ids: np.ndarray) -> Iterator[Region]:
    """Yield the region of each id of an image of ids, in ascending order.

    Args:
        ids: ``[height, width]`` of any integers.
    """
    values, positions, areas = np.unique(ids, return_inverse=True, return_counts=True)
    boxes = find_objects(positions.reshape(ids.shape) + 1)
    for value, (rows, columns), area in zip(values.tolist(), boxes, areas.tolist(), strict=True):
        yield Region(value, (columns.start, rows.start, columns.stop, rows.stop), area)


def connected_regions(mask: np.ndarray, mask_id: int) -> Iterator[Region]:
    """Yield the connected parts of a mask, with 8-connectivity."""
    count, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    for left, top, width, height, area in statistics[1:count].tolist():
        yield Region(mask_id, (left, top, left + width, top + height), area)


def region_of_runs(mask_id: int, size: tuple[int, int], counts: str) -> Region:
    """Return the region of a mask given as compressed run lengths; an empty mask has area 0.

    Args:
        mask_id: Its id.
        size: ``(height, width)`` of the image.
        counts: The run lengths in COCO's compression.

    Raises:
        ValueError: If the runs do not fill the image.
    """
    # Checked here, because pycocotools does not check the length of the runs.
    if (length := _length_of_runs(counts)) != size[0] * size[1]:
        msg = f"rle: expected runs of {size[0]} x {size[1]} pixels, found {length} pixels"
        raise ValueError(msg)
    encoded = {"size": list(size), "counts": counts.encode()}
    left, top, width, height = (int(value) for value in coco_mask.toBbox(encoded))
    xyxy = (left, top, left + width, top + height)
    return Region(mask_id, xyxy, int(coco_mask.area(encoded)))


def read_ids(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a PNG of ids with its 16 bits.

    Args:
        path: The PNG.
        size: ``(height, width)`` of the image that it describes.

    Raises:
        FrameError: If it is missing or damaged, or has several channels or another size.
    """
    try:
        data = read_file(path)
    except OSError as error:
        msg = f"Expected a PNG of ids at {path}, found nothing that can be read: {error}."
        raise FrameError(msg) from error
    header = read_header(data)
    if header is not None and header.stored_size != size:
        found = f"{header.stored_size[0]} x {header.stored_size[1]}"
        msg = f"{path}: expected the image's {size[0]} x {size[1]} (height x width), found {found}."
        raise FrameError(msg)
    is_png = header is not None and data.startswith(PNG_START)
    ids = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if is_png else None
    if ids is None or ids.ndim != 2:
        found = "nothing that can be read" if ids is None else f"{ids.shape[2]} channels"
        msg = f"Expected a PNG with one channel of ids at {path}, found {found}."
        raise FrameError(msg)
    return np.asarray(ids)


def _length_of_runs(counts: str) -> int:
    """Return how many pixels compressed run lengths fill; -1 if they are malformed.

    A character minus 48 has five bits of a number, lowest bits first; bit 5 says that more follow.
    From the fourth run on, the difference to the run before the previous one is stored.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode():
        bits = character - 48
        if not 0 <= bits < 64:
            return -1
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        if runs[-1] < 0:
            return -1
        value = shift = 0
    return -1 if shift else sum(runs)
