"""Average precision of detections, sorted by score and marked as true or false positives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RECALL_POINTS = np.linspace(0, 1, 101)  # of the COCO protocol


def area_under_curve(is_true: np.ndarray, num_objects: int) -> float:
    """Return the area under the precision-recall curve over all points, as in VOC since 2010.

    The precision at a recall is the highest precision at this or any higher recall.

    Args:
        is_true: Whether each detection is a true positive, best score first, ``[N]`` bool.
        num_objects: Number of objects to be found.

    Returns:
        A value from 0 to 1; NaN if there are no objects.
    """
    if not num_objects:
        return float("nan")
    # Recall rises by 1 / num_objects at each true detection and nowhere else.
    return float(_highest_precision(is_true).sum() / num_objects)


def mean_at_recall_points(is_true: np.ndarray, num_objects: int) -> float:
    """Return the mean precision at recall 0, 0.01, ..., 1, as in COCO.

    The precision at a recall is the highest precision at this or any higher recall; it is 0 at a
    recall that is not reached.

    Args:
        is_true: Whether each detection is a true positive, best score first, ``[N]`` bool.
        num_objects: Number of objects to be found.

    Returns:
        A value from 0 to 1; NaN if there are no objects.
    """
    if not num_objects:
        return float("nan")
    return float(precision_at_recall_points(is_true, num_objects).mean())


def precision_at_recall_points(is_true: np.ndarray, num_objects: int) -> np.ndarray:
    """Return the precision at each of the recalls whose mean `mean_at_recall_points` returns.

    Args:
        is_true: Whether each detection is a true positive, best score first, ``[N]`` bool.
        num_objects: Number of objects to be found, at least 1.

    Returns:
        ``[101]`` float64.
    """
    precision = _highest_precision(is_true)
    recall = np.arange(1, len(precision) + 1) / num_objects
    # The appended zero is the precision at recalls that are never reached.
    points: np.ndarray = np.append(precision, 0.0)[np.searchsorted(recall, RECALL_POINTS)]
    return points


def _highest_precision(is_true: np.ndarray) -> np.ndarray:
    """Return for each true positive the highest precision at its recall or any higher recall."""
    places = np.flatnonzero(is_true) + 1  # only true detections raise the precision
    precision = np.arange(1, len(places) + 1) / places
    highest: np.ndarray = np.maximum.accumulate(precision[::-1])[::-1]
    return highest


def with_mean(key: str, class_names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Return the value of each class as ``<key>/<class>``, and their mean as ``<key>``.

    The mean leaves out values that are NaN.

    Args:
        key: Name of the metric.
        class_names: Names of the classes.
        values: Value of the metric for each class.
    """
    by_class = {f"{key}/{name}": value for name, value in zip(class_names, values, strict=True)}
    return {key: mean_of_known(values), **by_class}


def mean_of_known(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if there is no such value."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
