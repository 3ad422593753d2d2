"""AP of groups of objects: those of the other groups are ignored, not missed."""

from __future__ import annotations

import numpy as np

from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.matching import (
    by_score,
    find_candidates,
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

_COCO_IOU, _COCO_BEST = 0.5, 100  # detections of a class in a frame


def group_headlines(protocol: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the keys of the numbers over all classes."""
    return tuple(f"{protocol}/{rule}_{name}" for rule in ("ap_50", "coco_ap_50") for name in names)


def grouped_average_precision(
    ground_truth: GroundTruth,
    predictions: DetectionTable,
    protocol: str,
    names: tuple[str, ...],
    groups: np.ndarray,
) -> dict[str, float]:
    """Evaluate predictions for each group of objects.

    For each group, objects of the others and those of no group are ignored: a detection matched to
    one of them is dropped. A detection matched to none counts as false in every group, unless at
    least half of it lies in a crowd region of its class.

    By the VID rule (`vid_average_precision`) detections are matched once, to all objects. By the
    COCO rule at IoU 0.50 they are matched for each group and prefer its objects to ignored ones
    and crowds, as COCO does.

    Args:
        ground_truth: The annotations.
        predictions: The detections.
        protocol: What the results are named after.
        names: Of the groups.
        groups: The group of each box, a position in ``names`` or -1 for none, ``[A]`` int64;
            crowds have none.

    Returns:
        For each group ``<protocol>/ap_50_<group>`` by the VID rule,
        ``<protocol>/coco_ap_50_<group>``, and ``<protocol>/share_<group>`` of all objects, as well
        as ``<protocol>/share_unknown``; and for each class ``<protocol>/ap_50_<group>/<class>`` by
        the VID rule. From 0 to 1; means are over the classes that have objects of the group, NaN
        where there is none.
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
    ground_truth: GroundTruth, predictions: DetectionTable, groups: np.ndarray, number: int
) -> list[list[float]]:
    """Return the AP of each group and class."""
    matched, dropped = vid_matches(ground_truth, predictions)
    return [
        [
            area_under_curve(*outcome)
            for outcome in outcomes(ground_truth, predictions, matched, dropped, groups == group)
        ]
        for group in range(number)
    ]


def _by_coco(
    ground_truth: GroundTruth, predictions: DetectionTable, groups: np.ndarray, number: int
) -> list[list[float]]:
    """Return the AP of each group and class."""
    ranks = ranks_in_frames(ground_truth, predictions)
    predictions = predictions[ranks < _COCO_BEST]
    candidates = find_candidates(ground_truth, predictions, _COCO_IOU, with_crowds=True)
    none = np.zeros(len(predictions), bool)
    result = []
    for wanted in (groups == group for group in range(number)):
        ordered = candidates.preferring(wanted)
        matched = match(ordered, len(predictions), len(groups), shared=ground_truth.iscrowd)
        of_classes = outcomes(ground_truth, predictions, matched, none, wanted)
        result.append([mean_at_recall_points(*outcome) for outcome in of_classes])
    return result
