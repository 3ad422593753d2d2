"""COCO average precision, with the same results as pycocotools.

The protocol is described at https://cocodataset.org/#detection-eval: IoU thresholds 0.50:0.95, 101
recall points, the best 100 detections per class and frame. Crowd regions are ignored: no detection
has to find them, and a detection that matches a crowd region is neither true nor false.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.matching import (
    PossibleMatches,
    by_score,
    find_possible_matches,
    match,
    outcomes,
    ranks_in_frames,
)
from vodet.metrics.precision_recall import mean_at_recall_points, mean_of_known, with_mean
from vodet.structures import GroundTruth

IOUS = np.linspace(0.5, 0.95, 10)
_IOU_50, _IOU_75 = 0, 5  # positions in IOUS
MAX_DETECTIONS = 100  # per class and frame
SIZES = {  # areas in square pixels, both limits included
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, np.inf),
}


def coco_average_precision(
    ground_truth: GroundTruth, predictions: DetectionTable
) -> dict[str, float]:
    """Return average precision and recall by the COCO protocol.

    In each frame and class, and at each IoU threshold, detections are matched greedily, best score
    first. Each detection takes the free object with the highest IoU.

    Crowd regions are ignored in all metrics. For the metrics of a size, such as ``map_small``,
    objects of other sizes are ignored, too. A detection takes an ignored object or region only if
    no other free object overlaps it enough; such a detection does not count. A detection of another
    size that matches nothing does not count either. For a crowd region, the IoU is the share of the
    detection that the region covers, and any number of detections may match the region.

    Frames and predictions may come in any order. Equal scores are ordered by image id, then by
    their order in ``predictions``. Detections in frames that are not annotated are dropped.

    Returns:
        ``map``, ``map_50``, ``map_75``, ``map_small``, ``map_medium``, ``map_large``, ``mar_1``,
        ``mar_10``, ``mar_100``, ``mar_small``, ``mar_medium``, ``mar_large``, and for each class
        ``map/<class>`` and ``map_50/<class>``. Values are from 0 to 1. A mean is over the classes
        that have objects (of the size, for metrics of a size). It is NaN if no class has any, where
        pycocotools reports -1.
    """
    predictions = by_score(ground_truth, predictions)
    # The next steps sort by class, which is faster if the input is already sorted.
    predictions = predictions[np.argsort(predictions.labels, kind="stable")]
    ranks = ranks_in_frames(ground_truth, predictions)
    is_kept = ranks < MAX_DETECTIONS
    predictions, ranks = predictions[is_kept], ranks[is_kept]
    possible = find_possible_matches(ground_truth, predictions, IOUS[0], with_crowds=True)
    any_size = list(_curves(ground_truth, predictions, possible, ranks, (0.0, np.inf)))
    by_size = {
        name: list(_curves(ground_truth, predictions, possible, ranks, limits))
        for name, limits in SIZES.items()
    }
    precisions = [curve.precisions for curve in any_size]
    by_class = _means(precisions)
    return {
        "map": mean_of_known(by_class),
        "map_50": mean_of_known(precisions[_IOU_50]),
        "map_75": mean_of_known(precisions[_IOU_75]),
        **{
            f"map_{name}": mean_of_known(_means([curve.precisions for curve in curves]))
            for name, curves in by_size.items()
        },
        "mar_1": mean_of_known(_means([curve.recalls_at_1 for curve in any_size])),
        "mar_10": mean_of_known(_means([curve.recalls_at_10 for curve in any_size])),
        "mar_100": mean_of_known(_means([curve.recalls for curve in any_size])),
        **{
            f"mar_{name}": mean_of_known(_means([curve.recalls for curve in curves]))
            for name, curves in by_size.items()
        },
        **with_mean("map", ground_truth.class_names, by_class),
        **with_mean("map_50", ground_truth.class_names, precisions[_IOU_50]),
    }


class _Curve(NamedTuple):
    """Average precision and recall of each of ``K`` classes at one IoU threshold.

    Args:
        precisions: Average precision of each class.
        recalls: Recall of the best 100 detections per class and frame.
        recalls_at_10: Recall of the best 10 detections per class and frame.
        recalls_at_1: Recall of the best detection per class and frame.
    """

    precisions: list[float]
    recalls: list[float]
    recalls_at_10: list[float]
    recalls_at_1: list[float]


def _curves(
    ground_truth: GroundTruth,
    predictions: DetectionTable,
    possible: PossibleMatches,
    ranks: np.ndarray,
    limits: tuple[float, float],
) -> Iterator[_Curve]:
    """Yield the results for objects whose area is within ``limits``, at each IoU threshold.

    Args:
        ground_truth: The annotations.
        predictions: The detections, best first.
        possible: Pairs of detections and objects that overlap enough at the lowest threshold.
        ranks: Rank of each detection in its class and frame, from 0.
        limits: Minimum and maximum area in square pixels, both inclusive.
    """
    wanted = _is_within(ground_truth.areas, limits) & ~ground_truth.iscrowd
    sides = predictions.boxes[:, 2:].astype(np.float64) - predictions.boxes[:, :2]
    dropped = ~_is_within(sides.prod(axis=1), limits)
    numbers = np.bincount(ground_truth.labels[wanted], minlength=len(ground_truth.class_names))
    ordered = possible.preferring(wanted)
    for iou in IOUS:
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
                for best in (MAX_DETECTIONS, 10, 1)
            ]
        by_class = outcomes(ground_truth, predictions, matched, dropped, wanted)
        precisions = [mean_at_recall_points(*outcome) for outcome in by_class]
        yield _Curve(precisions, *(values.tolist() for values in recalls))


def _is_within(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (values >= limits[0]) & (values <= limits[1])


def _means(by_iou: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of each class over all IoU thresholds; NaN for a class without objects.

    Args:
        by_iou: For each IoU threshold, a value per class.
    """
    means: list[float] = np.mean(by_iou, axis=0).tolist()
    return means
