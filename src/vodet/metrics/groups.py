"""AP of each group of objects, such as slow objects; objects of other groups are ignored."""

from __future__ import annotations

import numpy as np

from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.matching import (
    by_score,
    find_possible_matches,
    match,
    outcomes,
    ranks_in_frames,
)
from vodet.metrics.precision_recall import (
    area_under_curve,
    mean_at_recall_points,
    mean_of_known,
    with_mean,
)
from vodet.metrics.vid import vid_matches
from vodet.structures import GroundTruth

UNKNOWN_GROUP = -1

_COCO_IOU = 0.5
_COCO_MAX_DETECTIONS = 100  # per class and frame


def group_headlines(protocol: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the metrics of each group that are means over all classes.

    Args:
        protocol: Name of the protocol, with which the names begin.
        names: Names of the groups.
    """
    return tuple(f"{protocol}/{rule}_{name}" for rule in ("ap_50", "coco_ap_50") for name in names)


def grouped_average_precision(
    ground_truth: GroundTruth,
    predictions: DetectionTable,
    protocol: str,
    names: tuple[str, ...],
    groups: np.ndarray,
) -> dict[str, float]:
    """Return the AP of each group of objects, by the VID rule and by the COCO rule at IoU 0.50.

    In the AP of a group, objects of other groups and objects without a group are ignored: a
    detection that matches one of them does not count. A detection that matches no object is a false
    positive in every group, unless at least half of it lies in a crowd region of its class.

    By the VID rule (`vid_average_precision`), detections are matched only once, to the objects of
    all groups. By the COCO rule, they are matched separately for each group, and prefer objects of
    the group to ignored objects and crowds (`coco_average_precision`).

    Args:
        ground_truth: The annotations.
        predictions: The detections.
        protocol: Name of the protocol, with which the names of the metrics begin.
        names: Names of the groups.
        groups: For each annotated box, the index of its group in ``names``, or -1 for a box without
            a group, ``[A]`` int64. Crowds have no group.

    Returns:
        For each group, ``<protocol>/ap_50_<group>`` by the VID rule,
        ``<protocol>/coco_ap_50_<group>`` by the COCO rule, and ``<protocol>/share_<group>``, the
        share of the group among all objects; ``<protocol>/share_unknown`` is the share of objects
        without a group. For each group and class, ``<protocol>/ap_50_<group>/<class>`` by the VID
        rule. Values are from 0 to 1. The AP of a group is the mean over the classes that have
        objects of the group, or NaN if no class has any.
    """
    predictions = by_score(ground_truth, predictions)
    of_objects = groups[~ground_truth.iscrowd]
    result = {
        f"{protocol}/share_{name}": float(np.mean(of_objects == group))
        if of_objects.size
        else float("nan")
        for group, name in [*enumerate(names), (UNKNOWN_GROUP, "unknown")]
    }
    for group, precisions in enumerate(_by_vid(ground_truth, predictions, groups, len(names))):
        key = f"{protocol}/ap_50_{names[group]}"
        result |= with_mean(key, ground_truth.class_names, precisions)
    for group, precisions in enumerate(_by_coco(ground_truth, predictions, groups, len(names))):
        result[f"{protocol}/coco_ap_50_{names[group]}"] = mean_of_known(precisions)
    return result


def _by_vid(
    ground_truth: GroundTruth, predictions: DetectionTable, groups: np.ndarray, num_groups: int
) -> list[list[float]]:
    """Return the AP by the VID rule, for each group a list with a value per class."""
    matched, dropped = vid_matches(ground_truth, predictions)
    return [
        [
            area_under_curve(*outcome)
            for outcome in outcomes(ground_truth, predictions, matched, dropped, groups == group)
        ]
        for group in range(num_groups)
    ]


def _by_coco(
    ground_truth: GroundTruth, predictions: DetectionTable, groups: np.ndarray, num_groups: int
) -> list[list[float]]:
    """Return the AP by the COCO rule, for each group a list with a value per class."""
    ranks = ranks_in_frames(ground_truth, predictions)
    predictions = predictions[ranks < _COCO_MAX_DETECTIONS]
    possible = find_possible_matches(ground_truth, predictions, _COCO_IOU, with_crowds=True)
    dropped = np.zeros(len(predictions), bool)
    result = []
    for wanted in (groups == group for group in range(num_groups)):
        ordered = possible.preferring(wanted)
        matched = match(ordered, len(predictions), len(groups), shared=ground_truth.iscrowd)
        by_class = outcomes(ground_truth, predictions, matched, dropped, wanted)
        result.append([mean_at_recall_points(*outcome) for outcome in by_class])
    return result
