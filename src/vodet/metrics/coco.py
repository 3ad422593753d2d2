"""COCO average precision, in the numbers of pycocotools.

The protocol is that of https://cocodataset.org/#detection-eval: IoU 0.50:0.95, 101 recall points,
the best 100 detections of each class in a frame, crowds neither found nor missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.matching import (
    Candidates,
    by_score,
    find_candidates,
    match,
    outcomes,
    ranks_in_frames,
)
from vodet.metrics.precision_recall import mean_at_recall_points, mean_of_known, with_mean
from vodet.structures import GroundTruth

_IOUS = np.linspace(0.5, 0.95, 10)
_IOU_50, _IOU_75 = 0, 5  # among them
_BEST = 100  # detections of a class in a frame
_SIZES = {  # square pixels, both ends included
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, np.inf),
}


def coco_average_precision(
    ground_truth: GroundTruth, predictions: DetectionTable
) -> dict[str, float]:
    """Evaluate predictions by the COCO protocol.

    In each frame and class, at each IoU, detections choose in order of their scores: the free
    object that they overlap most, before those of other sizes and crowds, which are ignored with
    what found them. So are detections of other sizes that found nothing. With a crowd, IoU is the
    share of the detection that it covers, and any number may have it.

    Frames and predictions may come in any order; among equal scores the order is that of image ids,
    then of ``predictions``. Detections in frames that are not annotated are dropped.

    Returns:
        ``map``, ``map_50``, ``map_75``, ``map_small``, ``map_medium``, ``map_large``, ``mar_1``,
        ``mar_10``, ``mar_100``, ``mar_small``, ``mar_medium``, ``mar_large``, and for each class
        ``map/<class>`` and ``map_50/<class>``; from 0 to 1. Means are over the classes that have
        objects (of that size); NaN where none has (COCO's own tools say -1).
    """
    predictions = by_score(ground_truth, predictions)
    # Class by class: what follows finds them in order and need not sort again.
    predictions = predictions[np.argsort(predictions.labels, kind="stable")]
    ranks = ranks_in_frames(ground_truth, predictions)
    predictions, ranks = predictions[ranks < _BEST], ranks[ranks < _BEST]
    candidates = find_candidates(ground_truth, predictions, _IOUS[0], with_crowds=True)
    any_size = list(_curves(ground_truth, predictions, candidates, ranks, (0.0, np.inf)))
    of_sizes = {
        name: list(_curves(ground_truth, predictions, candidates, ranks, limits))
        for name, limits in _SIZES.items()
    }
    precisions = [curve.precisions for curve in any_size]
    by_class = _means(precisions)
    return {
        "map": mean_of_known(by_class),
        "map_50": mean_of_known(precisions[_IOU_50]),
        "map_75": mean_of_known(precisions[_IOU_75]),
        **{
            f"map_{name}": mean_of_known(_means([curve.precisions for curve in curves]))
            for name, curves in of_sizes.items()
        },
        "mar_1": mean_of_known(_means([curve.recalls_of_1 for curve in any_size])),
        "mar_10": mean_of_known(_means([curve.recalls_of_10 for curve in any_size])),
        "mar_100": mean_of_known(_means([curve.recalls for curve in any_size])),
        **{
            f"mar_{name}": mean_of_known(_means([curve.recalls for curve in curves]))
            for name, curves in of_sizes.items()
        },
        **with_mean("map", ground_truth.class_names, by_class),
        **with_mean("map_50", ground_truth.class_names, precisions[_IOU_50]),
    }


class _Curve(NamedTuple):
    """What comes of a precision-recall curve of each class at one IoU, four times ``[K]``."""

    precisions: list[float]
    recalls: list[float]
    recalls_of_10: list[float]
    recalls_of_1: list[float]


def _curves(
    ground_truth: GroundTruth,
    predictions: DetectionTable,
    candidates: Candidates,
    ranks: np.ndarray,
    limits: tuple[float, float],
) -> Iterator[_Curve]:
    """Yield the curves of objects whose area is within limits, one for each IoU."""
    wanted = _is_within(ground_truth.areas, limits) & ~ground_truth.iscrowd
    sides = predictions.boxes[:, 2:].astype(np.float64) - predictions.boxes[:, :2]
    dropped = ~_is_within(sides.prod(axis=1), limits)
    numbers = np.bincount(ground_truth.labels[wanted], minlength=len(ground_truth.class_names))
    ordered = candidates.preferring(wanted)
    for iou in _IOUS:
        matched = match(
            ordered[ordered.ious >= iou],
            len(predictions),
            len(ground_truth.boxes),
            shared=ground_truth.iscrowd,
        )
        found = np.flatnonzero(matched >= 0)
        found = found[wanted[matched[found]]]
        with np.errstate(invalid="ignore"):  # NaN for a class without objects
            recalls = [
                np.bincount(predictions.labels[found[ranks[found] < best]], minlength=len(numbers))
                / numbers
                for best in (_BEST, 10, 1)
            ]
        of_classes = outcomes(ground_truth, predictions, matched, dropped, wanted)
        precisions = [mean_at_recall_points(*outcome) for outcome in of_classes]
        yield _Curve(precisions, *(values.tolist() for values in recalls))


def _is_within(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (values >= limits[0]) & (values <= limits[1])


def _means(of_ious: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean over the IoUs for each class; NaN for one without objects."""
    means: list[float] = np.mean(of_ious, axis=0).tolist()
    return means
