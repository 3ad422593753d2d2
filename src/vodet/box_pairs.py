"""Areas and overlaps of paired boxes: box ``i`` of one array and box ``i`` of another array.

All boxes are xyxy in pixels. The functions compare each box only with its partner at the same
position, because a matrix of all pairs would be too large.
"""

from __future__ import annotations

import numpy as np


def intersections(boxes: np.ndarray, others: np.ndarray, pixel: float = 0.0) -> np.ndarray:
    """Return the area shared by each box and its partner, in square pixels.

    Args:
        boxes: xyxy, ``[..., 4]``.
        others: The partners of ``boxes``, ``[..., 4]``; both shapes are broadcast.
        pixel: Added to each width and height. Use 1 if the corners are pixel indices and the last
            pixel belongs to the box, so that the width is ``x2 - x1 + 1``.

    Returns:
        The areas, ``[...]`` float64.
    """
    least = np.maximum(boxes[..., :2], others[..., :2]).astype(np.float64)
    sides: np.ndarray = np.minimum(boxes[..., 2:], others[..., 2:]) - least + pixel
    shared: np.ndarray = sides.clip(min=0).prod(axis=-1)
    return shared


def areas(boxes: np.ndarray, pixel: float = 0.0) -> np.ndarray:
    """Return the area of each box in square pixels; for the arguments see `intersections`."""
    return intersections(boxes, boxes, pixel)


def ious(boxes: np.ndarray, others: np.ndarray, pixel: float = 0.0) -> np.ndarray:
    """Return the IoU of each box and its partner, 0 if both have no area.

    The arguments and shapes are the same as for `intersections`.
    """
    shared = intersections(boxes, others, pixel)
    union = areas(boxes, pixel) + areas(others, pixel) - shared
    quotients: np.ndarray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return quotients


def covered_shares(boxes: np.ndarray, others: np.ndarray, pixel: float = 0.0) -> np.ndarray:
    """Return the share of each box's area that its partner covers, 0 for a box without area.

    The arguments and shapes are the same as for `intersections`.
    """
    shared, own = intersections(boxes, others, pixel), areas(boxes, pixel)
    shares: np.ndarray = np.divide(shared, own, out=np.zeros_like(shared), where=own > 0)
    return shares
