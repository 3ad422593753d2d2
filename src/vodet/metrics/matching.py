"""Matches the detections of a whole data set to objects, best score first, each object once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vodet.box_pairs import covered_shares, ious
from vodet.id_lookup import pairs_of_equal_ids, positions_in
from vodet.metrics.detection_table import DetectionTable
from vodet.structures import GroundTruth

Threshold = float | Callable[[np.ndarray], np.ndarray]

_CROWD_SHARE = 0.5  # minimum share of a detection inside a crowd region; COCO's rule at IoU 0.5


@dataclass(frozen=True)
class PossibleMatches:
    """``P`` pairs of a detection and an object of the same frame and class that it may match.

    The pairs are sorted by detection. The pairs of a detection are sorted by its preference.

    Args:
        detections: Index in the predictions of each pair's detection, ``[P]`` int64.
        objects: Index in ``GroundTruth.boxes`` of each pair's object, ``[P]`` int64.
        ious: IoU of each pair, ``[P]`` float64; for a crowd region, the share of the detection that
            the region covers.
    """

    detections: np.ndarray
    objects: np.ndarray
    ious: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> PossibleMatches:
        """Return some of the pairs, given by their indices or by a mask."""
        return PossibleMatches(self.detections[rows], self.objects[rows], self.ious[rows])

    def in_order(self) -> PossibleMatches:
        """Return the pairs sorted by detection, then by descending IoU, then by object."""
        return self[np.lexsort((self.objects, -self.ious, self.detections))]

    def preferring(self, preferred: np.ndarray) -> PossibleMatches:
        """Return the same pairs, reordered: preferred annotated boxes first for each detection.

        Args:
            preferred: Which annotated boxes are preferred, ``[A]`` bool.
        """
        return self[np.lexsort((~preferred[self.objects], self.detections))]


def by_score(ground_truth: GroundTruth, predictions: DetectionTable) -> DetectionTable:
    """Return the predictions of annotated frames, sorted by score, best first.

    Predictions with equal scores are sorted by image id, then by their order in ``predictions``.
    """
    known = predictions[positions_in(ground_truth.image_ids, predictions.image_ids) >= 0]
    return known[np.lexsort((known.image_ids, -known.scores))]


def find_possible_matches(
    ground_truth: GroundTruth,
    predictions: DetectionTable,
    threshold: Threshold,
    *,
    pixel: float = 0.0,
    with_crowds: bool = False,
) -> PossibleMatches:
    """Find all pairs of a detection and an object of the same frame and class that may match.

    Args:
        ground_truth: The annotations.
        predictions: The detections.
        threshold: The minimum IoU of a pair, or a function that computes the minimum IoU of each
            object from the boxes of all objects, ``[A, 4]``.
        pixel: Number that is added to widths and heights before computing an IoU: 1 for boxes whose
            corners are pixel indices, otherwise 0.
        with_crowds: Whether detections can match crowd regions.

    Returns:
        The pairs, sorted by detection, then by descending IoU.
    """
    objects = np.flatnonzero(~ground_truth.iscrowd | with_crowds)
    detection_keys, keys = _keys(ground_truth, predictions)
    limits = threshold(ground_truth.boxes) if callable(threshold) else threshold
    limits = np.broadcast_to(limits, len(ground_truth.boxes))
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for rows, partners in pairs_of_equal_ids(detection_keys, keys[objects]):
        found = objects[partners]
        boxes, others = predictions.boxes[rows], ground_truth.boxes[found]
        overlaps = ious(boxes, others, pixel)
        if (crowds := np.flatnonzero(ground_truth.iscrowd[found])).size:
            overlaps[crowds] = covered_shares(boxes[crowds], others[crowds], pixel)
        enough = overlaps >= limits[found]
        parts.append((rows[enough], found[enough], overlaps[enough]))
    return PossibleMatches(
        *(np.concatenate(column) for column in zip(*parts, strict=True))
    ).in_order()


def _keys(ground_truth: GroundTruth, predictions: DetectionTable) -> tuple[np.ndarray, np.ndarray]:
    """Return a number for each detection and each annotated box, one per frame and class."""
    classes = len(ground_truth.class_names)
    frames = positions_in(ground_truth.image_ids, predictions.image_ids)
    return frames * classes + predictions.labels, ground_truth.frames * classes + (
        ground_truth.labels
    )


def match(
    possible: PossibleMatches,
    num_detections: int,
    num_objects: int,
    shared: np.ndarray | None = None,
) -> np.ndarray:
    """Match detections to objects: each detection, best first, takes the free object it prefers.

    The detections choose in parallel rounds instead of one by one. In each round, every detection
    without an object asks for the next object in its order of preference. Each object keeps the
    best detection that has asked for it. Since all objects rank the detections in the same order,
    the result is the same as for choosing one by one (Gale and Shapley, 1962).

    Args:
        possible: The possible matches, sorted by detection, then by preference.
        num_detections: Number of detections, which are sorted best first.
        num_objects: Number of annotated boxes.
        shared: Which annotated boxes any number of detections may match, ``[num_objects]`` bool.

    Returns:
        For each detection, the index of the annotated box that it takes, or -1,
        ``[num_detections]`` int64.
    """
    matched = np.full(num_detections, -1)
    is_first = np.diff(possible.detections, prepend=-1) != 0
    wish = np.flatnonzero(is_first)  # the pair that each detection asks for next
    asked, ends = possible.detections[wish], np.append(wish[1:], len(is_first))
    holders = np.full(num_objects, len(asked))  # the detection each object keeps; none yet
    free = np.arange(len(asked))
    while free.size:
        targets = possible.objects[wish[free]]
        if shared is not None:
            has_all = shared[targets]
            matched[asked[free[has_all]]] = targets[has_all]
            free, targets = free[~has_all], targets[~has_all]
        before = holders[targets]
        np.minimum.at(holders, targets, free)
        displaced = np.unique(before[(before != holders[targets]) & (before < len(asked))])
        lost = np.concatenate([free[holders[targets] != free], displaced])
        wish[lost] += 1
        free = lost[wish[lost] < ends[lost]]
    held = np.flatnonzero(holders < len(asked))
    matched[asked[holders[held]]] = held
    return matched


def in_crowds(
    ground_truth: GroundTruth, predictions: DetectionTable, *, pixel: float = 0.0
) -> np.ndarray:
    """Return which detections lie at least half in a crowd region of their class, ``[N]`` bool.

    Args:
        ground_truth: The annotations.
        predictions: The detections.
        pixel: Number that is added to widths and heights: see `find_possible_matches`.
    """
    crowds = np.flatnonzero(ground_truth.iscrowd)
    inside = np.zeros(len(predictions), bool)
    if not crowds.size:
        return inside
    detection_keys, keys = _keys(ground_truth, predictions)
    for rows, partners in pairs_of_equal_ids(detection_keys, keys[crowds]):
        region = ground_truth.boxes[crowds[partners]]
        shares = covered_shares(predictions.boxes[rows], region, pixel)
        inside[rows[shares >= _CROWD_SHARE]] = True
    return inside


def outcomes(
    ground_truth: GroundTruth,
    predictions: DetectionTable,
    matched: np.ndarray,
    dropped: np.ndarray,
    wanted: np.ndarray,
) -> list[tuple[np.ndarray, int]]:
    """Return for each class which detections are true and false positives.

    Args:
        ground_truth: The annotations.
        predictions: The detections, best first.
        matched: The annotated box that each detection takes, from `match`.
        dropped: Which detections do not count if they match no object, ``[N]`` bool.
        wanted: Which annotated boxes are to be found, ``[A]`` bool. A detection that matches
            another box does not count.

    Returns:
        For each class, a mask ``[n]`` over the detections that count, best first, which is True for
        true positives and False for false positives; and the number of objects to be found.
    """
    counted = counted_rows(ground_truth, predictions, matched, dropped, wanted)
    numbers = np.bincount(ground_truth.labels[wanted], minlength=len(ground_truth.class_names))
    parts = [matched[rows] >= 0 for rows in counted]
    return list(zip(parts, numbers.tolist(), strict=True))


def counted_rows(
    ground_truth: GroundTruth,
    predictions: DetectionTable,
    matched: np.ndarray,
    dropped: np.ndarray,
    wanted: np.ndarray,
) -> list[np.ndarray]:
    """Return for each class the indices of the detections that count, best first.

    The arguments are those of `outcomes`.
    """
    counts = ~dropped
    hits = np.flatnonzero(matched >= 0)
    counts[hits] = wanted[matched[hits]]
    rows = np.flatnonzero(counts)
    rows = rows[np.argsort(predictions.labels[rows], kind="stable")]
    classes = len(ground_truth.class_names)
    ends = np.searchsorted(predictions.labels[rows], np.arange(classes), side="right")
    return np.split(rows, ends)[:classes]


def ranks_in_frames(ground_truth: GroundTruth, predictions: DetectionTable) -> np.ndarray:
    """Return the rank of each detection within its class and frame, ``[N]`` int64.

    Ranks are counted from 0 in the order of ``predictions``.
    """
    keys, _ = _keys(ground_truth, predictions)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.arange(len(keys)) - np.searchsorted(ordered, ordered, side="left")
    return ranks
