"""AP by track length: how well objects with short, medium and long tracks are found."""

from __future__ import annotations

import numpy as np

from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.groups import UNKNOWN_GROUP, grouped_average_precision
from vodet.metrics.tracks import tracks_of
from vodet.structures import GroundTruth

GROUPS = ("short", "medium", "long")

_STARTS = (30, 150)  # minimum number of frames of a medium and of a long track


def track_length_groups(ground_truth: GroundTruth) -> np.ndarray:
    """Return the group of each object by the length of its track, as an index into `GROUPS`.

    The length of a track is the number of frames in which it is annotated. Short tracks have fewer
    than 30 frames, medium tracks 30 to 149, long tracks 150 or more. The limits correspond to one
    and five seconds at 30 frames per second. No benchmark defines these groups; we chose them. The
    group of crowds and of objects without a track id is -1.

    Returns:
        ``[A]`` int64.
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
    """Return the AP of objects with short, medium and long tracks.

    Returns:
        The metrics of `grouped_average_precision`, such as ``track_length/ap_50_short``.
    """
    groups = track_length_groups(ground_truth)
    return grouped_average_precision(ground_truth, predictions, "track_length", GROUPS, groups)
