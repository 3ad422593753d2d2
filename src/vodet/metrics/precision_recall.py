"""From detections in order of score, true or false, to average precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_RECALL_POINTS = np.linspace(0, 1, 101)  # those of COCO


def area_under_curve(is_true: np.ndarray, num_objects: int) -> float:
    """Return the area under the precision-recall curve over all its points, as VOC since 2010.

    Precision counts as the highest at the same or a higher recall.

    Args:
        is_true: Whether each detection found an object, best first, ``[N]`` bool.
        num_objects: How many there are to find.

    Returns:
        From 0 to 1; NaN where there is nothing to find.
    """
    if not num_objects:
        return float("nan")
    # Recall rises by 1 / num_objects at each true detection and nowhere else.
    return float(_highest_precision(is_true).sum() / num_objects)


def mean_at_recall_points(is_true: np.ndarray, num_objects: int) -> float:
    """Return the mean precision at recall 0, 0.01, ..., 1, as COCO; args as `area_under_curve`."""
    if not num_objects:
        return float("nan")
    precision = _highest_precision(is_true)
    recall = np.arange(1, len(precision) + 1) / num_objects
    # A last zero stands for recalls that are never reached.
    return float(np.append(precision, 0.0)[np.searchsorted(recall, _RECALL_POINTS)].mean())


def _highest_precision(is_true: np.ndarray) -> np.ndarray:
    """Return the highest precision at the recall of each true detection or a higher one."""
    places = np.flatnonzero(is_true) + 1  # it is highest at a true detection
    precision = np.arange(1, len(places) + 1) / places
    highest: np.ndarray = np.maximum.accumulate(precision[::-1])[::-1]
    return highest


def with_mean(key: str, class_names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Name the values of classes ``<key>/<class>``, and the mean of those known ``<key>``."""
    by_class = {f"{key}/{name}": value for name, value in zip(class_names, values, strict=True)}
    return {key: mean_of_known(values), **by_class}


def mean_of_known(values: Sequence[float]) -> float:
    """Return the mean of those that are not NaN; NaN where none is."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
