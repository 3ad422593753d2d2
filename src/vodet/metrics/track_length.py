"""AP by track length: how well objects are found that are seen for a short or a long time."""

from __future__ import annotations

import numpy as np

from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.groups import UNKNOWN_GROUP, grouped_average_precision
from vodet.metrics.tracks import tracks_of
from vodet.structures import GroundTruth

GROUPS = ("short", "medium", "long")

_STARTS = (30, 150)  # frames from which a track is medium, and long


def track_length_groups(ground_truth: GroundTruth) -> np.ndarray:
    """Return the group of each object, ``[A]`` int64: a position in `GROUPS`.

    By the number of frames in which its track is annotated, pauses not counted: short below 30,
    medium from 30 to 149, long from 150, which is one and five seconds at 30 frames per second. No
    benchmark has such groups; these are ours. -1 for objects without a track id, and crowds.
    """
    tracks = tracks_of(ground_truth)
    in_frames = np.column_stack([tracks.tracks, tracks.frame_numbers])
    is_new_frame = (np.diff(in_frames, axis=0, prepend=-1) != 0).any(axis=1)
    lengths = np.bincount(tracks.tracks, is_new_frame)
    groups = np.full(len(ground_truth.boxes), UNKNOWN_GROUP)
    groups[tracks.rows] = np.digitize(lengths, _STARTS)[tracks.tracks]
    return groups


def track_length_average_precision(
    ground_truth: GroundTruth, predictions: DetectionTable
) -> dict[str, float]:
    """Evaluate predictions for objects of short, medium and long tracks.

    Returns:
        ``track_length/ap_50_short`` and so on, as `grouped_average_precision` describes.
    """
    groups = track_length_groups(ground_truth)
    return grouped_average_precision(ground_truth, predictions, "track_length", GROUPS, groups)
