"""Pure functions of pairs of boxes in columns: xyxy arrays in pixels, far too many for a matrix."""

from __future__ import annotations

import numpy as np


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
