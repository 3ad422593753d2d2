"""AP by motion: how well slow, medium and fast objects are found.

The groups follow Flow-Guided Feature Aggregation (X. Zhu et al., ICCV 2017), which divides objects
by their motion IoU. Here, the motion IoU is computed from track ids, so any data set that has track
ids can be evaluated. Published evaluators put an object with a motion IoU of exactly 0.7 or 0.9
into two groups, or ignore false positives in some groups. Here, each object is in one group, and a
false positive counts in every group.
"""

from __future__ import annotations

import numpy as np

from vodet.box_pairs import ious
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.groups import UNKNOWN_GROUP, grouped_average_precision
from vodet.metrics.tracks import tracks_of
from vodet.structures import GroundTruth

GROUPS = ("slow", "medium", "fast")

_NEARBY = 10  # frames on each side
_SLOW_ABOVE, _FAST_BELOW = 0.9, 0.7


def motion_ious(ground_truth: GroundTruth) -> np.ndarray:
    """Return the motion IoU of each object, which is high for an object that hardly moves.

    The motion IoU is the mean IoU of the object's box with the other annotated boxes of its track
    that are 1 to 10 frames earlier or later. The width of a box is ``x2 - x1``.

    Returns:
        ``[A]`` float64, from 0 to 1. NaN for crowds, for objects without a track id, and for
        objects whose track has no other box within 10 frames.
    """
    tracks = tracks_of(ground_truth)
    boxes = ground_truth.boxes[tracks.rows]
    sums, counts = np.zeros(len(tracks)), np.zeros(len(tracks))
    for step in range(1, len(tracks)):  # stops after 10 if each track has one box per frame
        distances = tracks.frame_numbers[step:] - tracks.frame_numbers[:-step]
        near = (tracks.tracks[step:] == tracks.tracks[:-step]) & (distances <= _NEARBY)
        if not near.any():
            break
        first = np.flatnonzero(near & (distances > 0))
        overlaps = ious(boxes[first], boxes[first + step])
        for rows in (first, first + step):
            sums[rows] += overlaps
            counts[rows] += 1
    motion = np.full(len(ground_truth.boxes), np.nan)
    known = counts > 0
    motion[tracks.rows[known]] = sums[known] / counts[known]
    return motion


def motion_groups(ground_truth: GroundTruth) -> np.ndarray:
    """Return the group of each object by its motion, as an index into `GROUPS`, ``[A]`` int64.

    Slow objects have a motion IoU above 0.9, medium objects from 0.7 to 0.9 (both inclusive), fast
    objects below 0.7. The group is -1 if `motion_ious` gives NaN, as for a track with a single box.
    """
    motion = motion_ious(ground_truth)
    groups = np.where(motion > _SLOW_ABOVE, 0, np.where(motion < _FAST_BELOW, 2, 1))
    return np.where(np.isnan(motion), UNKNOWN_GROUP, groups)


def motion_average_precision(
    ground_truth: GroundTruth, predictions: DetectionTable
) -> dict[str, float]:
    """Return the AP of slow, medium and fast objects.

    Returns:
        The metrics of `grouped_average_precision`, such as ``motion/ap_50_slow``.
    """
    groups = motion_groups(ground_truth)
    return grouped_average_precision(ground_truth, predictions, "motion", GROUPS, groups)
