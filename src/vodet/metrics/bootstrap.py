"""Uncertainty of metrics: what other samples of videos would have given.

A bootstrap draws as many videos as the data set has, with replacement, many times. The detections
are not matched again: a video that is drawn twice counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vodet.metrics.precision_recall import RECALL_POINTS
from vodet.metrics.subsets import ClassOutcome

_LEVELS = 400  # maximum number of points of a precision-recall curve
_COVERAGE = 95.0  # percent


class Interval(NamedTuple):
    """The limits between which 95 percent of the resampled values lie."""

    low: float
    high: float


def resample_videos(num_videos: int, num_resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Draw videos with replacement.

    Returns:
        How often each video is drawn in each resample, ``[num_resamples, num_videos]`` float64.
    """
    if not num_videos:
        return np.zeros((num_resamples, 0))
    rng = np.random.default_rng(seed)
    shares = np.full(num_videos, 1 / num_videos)
    return rng.multinomial(num_videos, shares, num_resamples).astype(np.float64)


def interval(values: np.ndarray) -> Interval:
    """Return the interval that contains the middle 95 percent of the values that are not NaN."""
    known = values[~np.isnan(values)]
    if not known.size:
        return Interval(float("nan"), float("nan"))
    beyond = (100 - _COVERAGE) / 2
    low, high = np.percentile(known, [beyond, 100 - beyond])
    return Interval(float(low), float(high))


def resampled_mean_ap(by_iou: Sequence[Sequence[ClassOutcome]], weights: np.ndarray) -> np.ndarray:
    """Return the AP of each resample: the mean over IoU thresholds and classes with objects.

    Args:
        by_iou: For each IoU threshold, the outcome of each class.
        weights: How often each video occurs in each of ``R`` resamples, ``[R, V]``.

    Returns:
        ``[R]`` float64; NaN for resamples without objects.
    """
    of_ious = []
    for outcomes in by_iou:
        values = np.stack([resampled_ap(outcome, weights) for outcome in outcomes])
        known = ~np.isnan(values)
        sums, numbers = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
        of_ious.append(np.divide(sums, numbers, out=np.full(len(sums), np.nan), where=numbers > 0))
    means: np.ndarray = np.mean(of_ious, axis=0)
    return means


def resampled_ap(outcome: ClassOutcome, weights: np.ndarray) -> np.ndarray:
    """Return the AP of a class in each resample, by the COCO rule at 101 recall points.

    The precision is computed at the true positives. If there are more than 400, it is computed at
    400 of them, evenly spaced, which changes the AP by less than 0.003.

    Args:
        outcome: The detections of the class.
        weights: How often each video occurs in each of ``R`` resamples, ``[R, V]``.

    Returns:
        ``[R]`` float64; NaN for resamples without objects.
    """
    numbers = weights @ outcome.objects
    true, false = (weights @ counts for counts in _counts_by_level(outcome))
    true, false = np.cumsum(true, axis=1), np.cumsum(false, axis=1)
    found = true + false
    precision = np.divide(true, found, out=np.zeros_like(true), where=found > 0)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.pad(precision, ((0, 0), (0, 1)))  # 0 at recalls that are never reached
    places = np.zeros((len(weights), len(RECALL_POINTS)), np.int64)
    for row in np.flatnonzero(numbers > 0):
        places[row] = np.searchsorted(true[row] / numbers[row], RECALL_POINTS)
    means = np.take_along_axis(precision, places, axis=1).mean(axis=1)
    result: np.ndarray = np.where(numbers > 0, means, np.nan)
    return result


def _counts_by_level(outcome: ClassOutcome) -> tuple[np.ndarray, np.ndarray]:
    """Count the true and the false positives of each video between points of the curve.

    Returns:
        The true and the false positives, ``[V, levels]`` float64 each.
    """
    hits = np.flatnonzero(outcome.is_true)
    levels = min(len(hits), _LEVELS)
    ends = hits[np.linspace(0, max(0, len(hits) - 1), levels).round().astype(np.int64)]
    number = len(outcome.objects)
    level = np.searchsorted(ends, np.arange(ends[-1] + 1 if levels else 0))
    cells = outcome.videos[: len(level)] * levels + level
    is_true = outcome.is_true[: len(level)]
    true, false = (
        np.bincount(cells[rows], minlength=number * levels).reshape(number, levels).astype(float)
        for rows in (is_true, ~is_true)
    )
    return true, false
