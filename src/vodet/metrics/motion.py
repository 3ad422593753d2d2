"""AP by motion: how well slow, medium and fast objects are found.

The groups are those of Flow-Guided Feature Aggregation (X. Zhu et al., ICCV 2017), by the motion
IoU of objects, here computed from track ids and so for any annotated video. Published evaluators
put an object of exactly 0.7 or 0.9 into two groups, or forgive false detections of some groups;
here each object is in one group and a false detection counts in every one.
"""

from __future__ import annotations

import numpy as np

from vodet.box_pairs import ious
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.groups import UNKNOWN_GROUP, grouped_average_precision
from vodet.metrics.tracks import tracks_of
from vodet.structures import GroundTruth

GROUPS = ("slow", "medium", "fast")

_NEARBY = 10  # frames before and after
_SLOW_ABOVE, _FAST_BELOW = 0.9, 0.7


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
    return np.where(np.isnan(motion), UNKNOWN_GROUP, groups)


def motion_average_precision(
    ground_truth: GroundTruth, predictions: DetectionTable
) -> dict[str, float]:
    """Evaluate predictions for slow, medium and fast objects.

    Returns:
        ``motion/ap_50_slow`` and so on, as `grouped_average_precision` describes.
    """
    groups = motion_groups(ground_truth)
    return grouped_average_precision(ground_truth, predictions, "motion", GROUPS, groups)
