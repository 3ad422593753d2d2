"""Stability: whether the detections of an object come, stay in place and go without reason.

Not a published protocol: what users of videos see and average precision does not say.
"""

from __future__ import annotations

import numpy as np

from vodet.box_pairs import ious
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.matching import by_score, find_candidates, match
from vodet.metrics.tracks import Tracks, tracks_of
from vodet.structures import GroundTruth

_LEAST_IOU = 0.5


def stability(
    ground_truth: GroundTruth, predictions: DetectionTable, score_threshold: float = 0.3
) -> dict[str, float]:
    """Follow the detections of annotated objects through their videos.

    In each frame and class, detections of at least ``score_threshold`` choose in order of their
    scores, each the free object of highest IoU, of at least 0.5 with widths ``x2 - x1``. Objects
    are known by their track ids; those without one, crowds and false detections do not count here.
    The frames of a track are those in which it is annotated.

    Two frames are neighbours if no annotated frame of the video is between them; a track that
    pauses between two of its boxes has no neighbours there.

    Args:
        ground_truth: The annotations.
        predictions: The detections.
        score_threshold: The lowest score that counts as found.

    Returns:
        ``stability/found``: the share of the frames of a track in which it is found, mean over
        the tracks, from 0 to 1.
        ``stability/drop_outs``: how often a track that was found is lost and later found again,
        for each 100 frames of tracks. The length of the loss does not matter.
        ``stability/jitter``: mean of ``IoU(object, object) - IoU(detection, detection)`` over
        tracks found in two neighbouring frames, each IoU between the two frames: 0 where boxes
        move as annotated, below 0 where they move less, at most 1.
        ``stability/score_change``: mean absolute difference of the scores in the same pairs.
        ``stability/score_threshold``, as given: the others are comparable only at the same one.
        NaN where there is nothing to count.
    """
    predictions = by_score(
        ground_truth, predictions[predictions.scores >= np.float32(score_threshold)]
    )
    candidates = find_candidates(ground_truth, predictions, _LEAST_IOU)
    matched = match(candidates, len(predictions), len(ground_truth.boxes))
    finders = np.full(len(ground_truth.boxes), -1)
    hits = np.flatnonzero(matched >= 0)
    finders[matched[hits]] = hits
    tracks = tracks_of(ground_truth)
    is_found = finders[tracks.rows] >= 0
    pairs = _found_in_neighbours(ground_truth, tracks, is_found)
    objects = [ground_truth.boxes[rows] for rows in pairs]
    detections = [predictions[finders[rows]] for rows in pairs]
    jitter = ious(*objects) - ious(detections[0].boxes, detections[1].boxes)
    return {
        "stability/score_threshold": score_threshold,
        "stability/found": _mean(_shares(tracks, is_found)),
        "stability/drop_outs": 100 * _drop_outs(tracks, is_found) / len(tracks)
        if len(tracks)
        else float("nan"),
        "stability/jitter": _mean(jitter),
        "stability/score_change": _mean(
            np.abs(detections[1].scores.astype(np.float64) - detections[0].scores)
        ),
    }


def _shares(tracks: Tracks, is_found: np.ndarray) -> np.ndarray:
    lengths = np.bincount(tracks.tracks, minlength=tracks.num_tracks)
    shares: np.ndarray = np.bincount(tracks.tracks, is_found, tracks.num_tracks) / lengths
    return shares


def _drop_outs(tracks: Tracks, is_found: np.ndarray) -> int:
    """Count the pairs of successive finds of a track with frames of it in between."""
    finds = np.flatnonzero(is_found)
    same = tracks.tracks[finds[1:]] == tracks.tracks[finds[:-1]]
    return int((same & (np.diff(finds) > 1)).sum())


def _found_in_neighbours(
    ground_truth: GroundTruth, tracks: Tracks, is_found: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes of tracks found in two neighbouring frames, two times ``[P]``."""
    order = np.lexsort((ground_truth.frame_numbers, ground_truth.videos))
    positions = np.argsort(order)[ground_truth.frames[tracks.rows]]
    both = is_found[1:] & is_found[:-1] & (np.diff(tracks.tracks) == 0) & (np.diff(positions) == 1)
    first = np.flatnonzero(both)
    return tracks.rows[first], tracks.rows[first + 1]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
