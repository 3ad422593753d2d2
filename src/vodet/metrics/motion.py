"""AP by motion: how well slow, medium and fast objects are found.

The groups are those of Flow-Guided Feature Aggregation (X. Zhu et al., ICCV 2017), by the motion
IoU of objects, here computed from track ids and so for any annotated video. Published evaluators
put an object of exactly 0.7 or 0.9 into two groups, or forgive false detections of some groups;
here each object is in one group and a false detection counts in every one.
"""

from __future__ import annotations

import numpy as np

from vodet.box_pairs import ious
from vodet.metrics.matching import (
    best_of_frames,
    by_score,
    find_candidates,
    in_crowds,
    match,
    outcomes,
)
from vodet.metrics.precision_recall import (
    area_under_curve,
    mean_at_recall_points,
    mean_of_known,
)
from vodet.metrics.predictions import Predictions
from vodet.metrics.tracks import tracks_of
from vodet.metrics.vid import PIXEL, vid_threshold
from vodet.structures import GroundTruth

GROUPS = ("slow", "medium", "fast")
UNKNOWN_MOTION = -1

_NEARBY = 10  # frames before and after
_SLOW_ABOVE, _FAST_BELOW = 0.9, 0.7
_COCO_IOU, _COCO_BEST = 0.5, 100  # detections of a class in a frame


def motion_ious(ground_truth: GroundTruth) -> np.ndarray:
    """Return how much each object stays where it is.

    The mean IoU, of continuous widths ``x2 - x1``, of its box with the other boxes of its track in
    frames whose numbers differ by 1 to 10, on both sides and as far as they are annotated.

    Returns:
        ``[A]`` float64, from 0 to 1; NaN where nothing can be said: objects without a track id or
        without another box of their track nearby, and crowds.
    """
    tracks = tracks_of(ground_truth)
    boxes = ground_truth.boxes[tracks.rows]
    sums, counts = np.zeros(len(tracks)), np.zeros(len(tracks))
    for step in range(1, len(tracks)):  # ends after 10 where a track has one box in a frame
        apart = tracks.frame_numbers[step:] - tracks.frame_numbers[:-step]
        near = (tracks.tracks[step:] == tracks.tracks[:-step]) & (apart <= _NEARBY)
        if not near.any():
            break
        first = np.flatnonzero(near & (apart > 0))
        overlaps = ious(boxes[first], boxes[first + step])
        for rows in (first, first + step):
            sums[rows] += overlaps
            counts[rows] += 1
    motion = np.full(len(ground_truth.boxes), np.nan)
    known = counts > 0
    motion[tracks.rows[known]] = sums[known] / counts[known]
    return motion


def motion_groups(ground_truth: GroundTruth) -> np.ndarray:
    """Return the group of each object, ``[A]`` int64: a position in `GROUPS`.

    Slow above 0.9, medium from 0.7 to 0.9 with both ends, fast below 0.7; -1 where the motion IoU
    is not known, so that a track seen once is in no group.
    """
    motion = motion_ious(ground_truth)
    groups = np.where(motion > _SLOW_ABOVE, 0, np.where(motion < _FAST_BELOW, 2, 1))
    return np.where(np.isnan(motion), UNKNOWN_MOTION, groups)


def motion_average_precision(
    ground_truth: GroundTruth, predictions: Predictions
) -> dict[str, float]:
    """Evaluate predictions for slow, medium and fast objects.

    For each group, objects of the others and those of unknown motion are ignored, not missed: a
    detection matched to one of them is dropped. A detection matched to none counts as false in
    every group, unless at least half of it lies in a crowd region of its class.

    By the VID rule (`vid_average_precision`) detections are matched once, to all objects. By the
    COCO rule at IoU 0.50 they are matched for each group and prefer its objects to ignored ones,
    as COCO does.

    Returns:
        For each group ``motion/ap_50_<group>`` by the VID rule, ``motion/coco_ap_50_<group>``, and
        ``motion/share_<group>`` of all objects, as well as ``motion/share_unknown``; and for each
        class ``motion/ap_50_<group>/<class>`` by the VID rule. From 0 to 1; means are over the
        classes that have objects of the group, NaN where there is none.
    """
    predictions = by_score(ground_truth, predictions)
    groups = motion_groups(ground_truth)
    is_object = ~ground_truth.iscrowd
    result = {
        f"motion/share_{name}": float(np.mean(groups[is_object] == group))
        if is_object.any()
        else float("nan")
        for group, name in [*enumerate(GROUPS), (UNKNOWN_MOTION, "unknown")]
    }
    result |= _by_vid(ground_truth, predictions, groups)
    return result | _by_coco(ground_truth, predictions, groups)


def _by_vid(
    ground_truth: GroundTruth, predictions: Predictions, groups: np.ndarray
) -> dict[str, float]:
    candidates = find_candidates(ground_truth, predictions, vid_threshold, pixel=PIXEL)
    matched = match(candidates, len(predictions), len(groups))
    crowded = in_crowds(ground_truth, predictions, pixel=PIXEL)
    result = {}
    for group, name in enumerate(GROUPS):
        of_classes = outcomes(ground_truth, predictions, matched, crowded, groups == group)
        precisions = [area_under_curve(*outcome) for outcome in of_classes]
        result[f"motion/ap_50_{name}"] = mean_of_known(precisions)
        for class_name, precision in zip(ground_truth.class_names, precisions, strict=True):
            result[f"motion/ap_50_{name}/{class_name}"] = precision
    return result


def _by_coco(
    ground_truth: GroundTruth, predictions: Predictions, groups: np.ndarray
) -> dict[str, float]:
    predictions = best_of_frames(ground_truth, predictions, _COCO_BEST)
    candidates = find_candidates(ground_truth, predictions, _COCO_IOU)
    crowded = in_crowds(ground_truth, predictions)
    result = {}
    for group, name in enumerate(GROUPS):
        wanted = groups == group
        matched = match(candidates, len(predictions), len(groups), last_choice=~wanted)
        of_classes = outcomes(ground_truth, predictions, matched, crowded, wanted)
        precisions = [mean_at_recall_points(*outcome) for outcome in of_classes]
        result[f"motion/coco_ap_50_{name}"] = mean_of_known(precisions)
    return result
