"""UAVDT AP70, the protocol of the UAV detection and tracking benchmark (D. Du et al., ECCV 2018).

It follows ``CalculateDetectionPR_overall.m`` and ``CalculateDetectionPR_obj.m`` in the toolkit of
the benchmark: detections inside ignore regions are removed, and the others are matched to objects
at an IoU of 0.7 or more.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vodet.id_lookup import pairs_of_equal_ids, positions_in
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.matching import by_score, find_possible_matches, match, outcomes
from vodet.metrics.precision_recall import area_under_curve, mean_of_known, with_mean
from vodet.structures import GroundTruth

_LEAST_IOU = 0.7


def uavdt_average_precision(
    ground_truth: GroundTruth, predictions: DetectionTable
) -> dict[str, float]:
    """Return average precision by the protocol of UAVDT.

    A detection is dropped if it lies inside a crowd or ignore region of its frame, of any class,
    without touching the edge of the region. The other detections are matched greedily in each frame
    and class, best score first. Each detection takes the free object with the highest IoU, if this
    is at least 0.7; the width of a box is ``x2 - x1``. AP is the area under the precision-recall
    curve over all points.

    Equal scores are ordered by image id, then by their order in ``predictions``.

    Returns:
        ``uavdt/ap_70``, with all classes merged into "vehicle", as the benchmark reports it;
        ``uavdt/ap_70/<class>`` for each class, NaN for a class without objects; and
        ``uavdt/map_70``, the mean over the classes. Values are from 0 to 1.
    """
    predictions = by_score(ground_truth, predictions)
    predictions = predictions[~in_ignored(ground_truth, predictions)]
    (vehicle,) = _precisions(
        replace(ground_truth, class_names=("vehicle",), labels=np.zeros_like(ground_truth.labels)),
        replace(predictions, labels=np.zeros_like(predictions.labels)),
    )
    precisions = _precisions(ground_truth, predictions)
    by_class = with_mean("uavdt/ap_70", ground_truth.class_names, precisions)
    return by_class | {"uavdt/ap_70": vehicle, "uavdt/map_70": mean_of_known(precisions)}


def in_ignored(ground_truth: GroundTruth, predictions: DetectionTable) -> np.ndarray:
    """Return which detections lie inside a crowd or ignore region of their frame, ``[N]`` bool.

    A detection that touches the edge of the region is not inside it.
    """
    regions = np.flatnonzero(ground_truth.iscrowd)
    inside = np.zeros(len(predictions), bool)
    frames = positions_in(ground_truth.image_ids, predictions.image_ids)
    for rows, partners in pairs_of_equal_ids(frames, ground_truth.frames[regions]):
        boxes, around = predictions.boxes[rows], ground_truth.boxes[regions[partners]]
        strictly = (boxes[:, :2] > around[:, :2]) & (boxes[:, 2:] < around[:, 2:])
        inside[rows[strictly.all(axis=1)]] = True
    return inside


def _precisions(ground_truth: GroundTruth, predictions: DetectionTable) -> list[float]:
    possible = find_possible_matches(ground_truth, predictions, _LEAST_IOU)
    matched = match(possible, len(predictions), len(ground_truth.boxes))
    dropped = np.zeros(len(predictions), bool)
    by_class = outcomes(ground_truth, predictions, matched, dropped, ~ground_truth.iscrowd)
    return [area_under_curve(*outcome) for outcome in by_class]
