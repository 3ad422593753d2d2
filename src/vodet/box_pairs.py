"""Pure functions of pairs of boxes in columns: xyxy arrays in pixels, far too many for a matrix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_CHUNK = 1_000_000  # pairs made at a time: bounds the memory of crowded frames


def intersections(boxes: np.ndarray, others: np.ndarray, pixel: float = 0.0) -> np.ndarray:
    """Return the area shared by each box and its partner, in square pixels.

    Args:
        boxes: ``[..., 4]``, broadcast with ``others``.
        others: ``[..., 4]``.
        pixel: Added to each width and height: 1 where corners are numbers of pixels, the last one
            inside the box, so that ``x2 - x1 + 1`` is the width.

    Returns:
        ``[...]`` float64.
    """
    least = np.maximum(boxes[..., :2], others[..., :2]).astype(np.float64)
    sides: np.ndarray = np.minimum(boxes[..., 2:], others[..., 2:]) - least + pixel
    shared: np.ndarray = sides.clip(min=0).prod(axis=-1)
    return shared


def areas(boxes: np.ndarray, pixel: float = 0.0) -> np.ndarray:
    """Return the areas of boxes ``[..., 4]`` in square pixels, as `intersections` measures."""
    return intersections(boxes, boxes, pixel)


def ious(boxes: np.ndarray, others: np.ndarray, pixel: float = 0.0) -> np.ndarray:
    """Return the IoU of each box and its partner, 0 where neither has an area.

    Args and shapes as of `intersections`.
    """
    shared = intersections(boxes, others, pixel)
    union = areas(boxes, pixel) + areas(others, pixel) - shared
    quotients: np.ndarray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return quotients


def covered_shares(boxes: np.ndarray, others: np.ndarray, pixel: float = 0.0) -> np.ndarray:
    """Return the share of each box that its partner covers, 0 for a box without area.

    Args and shapes as of `intersections`.
    """
    shared, own = intersections(boxes, others, pixel), areas(boxes, pixel)
    shares: np.ndarray = np.divide(shared, own, out=np.zeros_like(shared), where=own > 0)
    return shares


def pairs_of_equal_keys(
    keys: np.ndarray, other_keys: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Find all pairs of rows of two tables with equal keys, by and by.

    Args:
        keys: ``[N]`` int64.
        other_keys: ``[M]`` int64.

    Yields:
        Rows ``[P]`` of the first table, ascending over all that is yielded, and rows ``[P]`` of
        the second, ascending for each row of the first.
    """
    order = np.argsort(other_keys, kind="stable")
    ordered = other_keys[order]
    starts = np.searchsorted(ordered, keys, side="left")
    counts = np.searchsorted(ordered, keys, side="right") - starts
    rows = np.flatnonzero(counts)
    parts = np.cumsum(counts[rows]) // _CHUNK
    for part in np.split(rows, np.flatnonzero(np.diff(parts)) + 1):
        first = np.repeat(part, counts[part])
        ends = np.cumsum(counts[part])
        within = np.arange(len(first)) - np.repeat(ends - counts[part], counts[part])
        yield first, order[starts[first] + within]
