"""Stability of detections over time: drop-outs, jitter and changes of the score.

This is not a published protocol. It measures what viewers of a video notice and average precision
does not show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vodet.box_pairs import ious
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.matching import by_score, find_possible_matches, match
from vodet.metrics.tracks import Tracks, tracks_of
from vodet.structures import GroundTruth

STABILITY_METRICS = (
    "stability/found",
    "stability/drop_outs",
    "stability/jitter",
    "stability/score_change",
)

_LEAST_IOU = 0.5


def stability(
    ground_truth: GroundTruth, predictions: DetectionTable, score_threshold: float = 0.3
) -> dict[str, float]:
    """Measure how steadily the objects of a video are detected from frame to frame.

    In each frame and class, detections with a score of at least ``score_threshold`` are matched
    greedily, best score first. Each detection takes the free object with the highest IoU, if this
    is at least 0.5; the width of a box is ``x2 - x1``. An object is found in a frame if a detection
    takes it. A track consists of the annotated boxes with the same track id. Objects without a
    track id, crowds and false positives do not count.

    Two frames are neighbours if no annotated frame of the video lies between them. If a track has
    no box in some annotated frames, its boxes before and after them are not in neighbouring frames.

    Args:
        ground_truth: The annotations.
        predictions: The detections.
        score_threshold: Minimum score of a detection.

    Returns:
        ``stability/found``: the share of a track's boxes that are found, averaged over the tracks,
        from 0 to 1.
        ``stability/drop_outs``: number of gaps in which a track is not found, between boxes that
        are found, per 100 annotated boxes of tracks. The length of a gap does not matter.
        ``stability/jitter``: how much more the detections move than the objects. For each object
        that is found in two neighbouring frames, it is the IoU of the object's two annotated boxes
        minus the IoU of its two detections; the value is the mean. It is 0 if the detections move
        as annotated, negative if they move less, and at most 1.
        ``stability/score_change``: mean absolute difference of the two detections' scores, for the
        same objects and pairs of frames.
        ``stability/score_threshold``: the given threshold; only results with the same threshold are
        comparable.
        A value is NaN if there is nothing to measure.
    """
    sums = stability_sums(ground_truth, predictions, score_threshold)
    means = sums.means(np.ones(sums.totals.shape[1]))
    return {
        "stability/score_threshold": score_threshold,
        **dict(zip(STABILITY_METRICS, means.tolist(), strict=True)),
    }


@dataclass(frozen=True)
class StabilitySums:
    """The sums and counts per video whose quotients are the metrics of `stability`.

    Args:
        totals: For each metric in `STABILITY_METRICS`, the sum of its values in each of ``V``
            videos, ``[4, V]`` float64.
        counts: The number of values, ``[4, V]`` float64.
    """

    totals: np.ndarray
    counts: np.ndarray

    def means(self, weights: np.ndarray) -> np.ndarray:
        """Return the metrics of a data set that contains each video with a weight.

        Args:
            weights: How often each video occurs, ``[..., V]``.

        Returns:
            ``[..., 4]`` float64; NaN if there is nothing to measure.
        """
        totals, counts = weights @ self.totals.T, weights @ self.counts.T
        means: np.ndarray = np.divide(
            totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0
        )
        return means


def stability_sums(
    ground_truth: GroundTruth, predictions: DetectionTable, score_threshold: float
) -> StabilitySums:
    """Return the sums over each video from which `stability` computes its metrics.

    Args:
        ground_truth: The annotations.
        predictions: The detections.
        score_threshold: Minimum score of a detection.
    """
    finders, predictions = finders_of(ground_truth, predictions, score_threshold)
    tracks = tracks_of(ground_truth)
    is_found = finders[tracks.rows] >= 0
    videos = ground_truth.videos[ground_truth.frames[tracks.rows]]
    lengths = np.bincount(tracks.tracks)[tracks.tracks]
    drop_outs = _ends_of_drop_outs(tracks, is_found)
    pairs = _found_in_neighbours(ground_truth, tracks, is_found)
    objects = [ground_truth.boxes[tracks.rows[rows]] for rows in pairs]
    detections = [predictions[finders[tracks.rows[rows]]] for rows in pairs]
    jitter = ious(*objects) - ious(detections[0].boxes, detections[1].boxes)
    changes = np.abs(detections[1].scores.astype(np.float64) - detections[0].scores)
    number = int(ground_truth.videos.max(initial=-1)) + 1

    def per_video(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.bincount(videos[rows], values, minlength=number)

    every = np.arange(len(tracks))
    pair_counts = per_video(pairs[0], np.ones(len(jitter)))
    totals = [
        per_video(every, is_found / lengths),
        per_video(drop_outs, np.full(len(drop_outs), 100.0)),
        per_video(pairs[0], jitter),
        per_video(pairs[0], changes),
    ]
    counts = [
        per_video(every, 1 / lengths),
        per_video(every, np.ones(len(tracks))),
        pair_counts,
        pair_counts,
    ]
    return StabilitySums(np.stack(totals), np.stack(counts))


def finders_of(
    ground_truth: GroundTruth, predictions: DetectionTable, score_threshold: float
) -> tuple[np.ndarray, DetectionTable]:
    """Find the detection that takes each object, by the rule of `stability`.

    Args:
        ground_truth: The annotations.
        predictions: The detections.
        score_threshold: Minimum score of a detection.

    Returns:
        For each annotated box, the index of the detection that takes it, or -1, ``[A]`` int64; and
        the detections to which the indices refer, best first.
    """
    predictions = by_score(
        ground_truth, predictions[predictions.scores >= np.float32(score_threshold)]
    )
    possible = find_possible_matches(ground_truth, predictions, _LEAST_IOU)
    matched = match(possible, len(predictions), len(ground_truth.boxes))
    finders = np.full(len(ground_truth.boxes), -1)
    hits = np.flatnonzero(matched >= 0)
    finders[matched[hits]] = hits
    return finders, predictions


def _ends_of_drop_outs(tracks: Tracks, is_found: np.ndarray) -> np.ndarray:
    """Return the positions in ``tracks`` at which an object is found again after a gap."""
    found = np.flatnonzero(is_found)
    same = tracks.tracks[found[1:]] == tracks.tracks[found[:-1]]
    ends: np.ndarray = found[1:][same & (np.diff(found) > 1)]
    return ends


def _found_in_neighbours(
    ground_truth: GroundTruth, tracks: Tracks, is_found: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the objects that are found in two neighbouring frames.

    Returns:
        For each of ``P`` such pairs of frames, the position in ``tracks`` of the object's box in
        the earlier and in the later frame, ``[P]`` each.
    """
    order = np.lexsort((ground_truth.frame_numbers, ground_truth.videos))
    positions = np.argsort(order)[ground_truth.frames[tracks.rows]]
    both = is_found[1:] & is_found[:-1] & (np.diff(tracks.tracks) == 0) & (np.diff(positions) == 1)
    first = np.flatnonzero(both)
    return first, first + 1
