"""Detections matched to objects: greedily by score, each object once, whole data sets at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vodet.box_pairs import covered_shares, ious
from vodet.id_lookup import pairs_of_equal_ids, positions_in
from vodet.metrics.detection_table import DetectionTable
from vodet.structures import GroundTruth

Threshold = float | Callable[[np.ndarray], np.ndarray]

_CROWD_SHARE = 0.5  # of a detection inside a crowd region; COCO's rule at IoU 0.5


@dataclass(frozen=True)
class Candidates:
    """Detections with the objects of their frame and class that they overlap enough.

    In the order of detections, those of each in the order in which it wants them.

    Args:
        detections: Rows of the predictions, ``[P]`` int64.
        objects: Rows of the boxes of the ground truth, ``[P]`` int64.
        ious: ``[P]`` float64; with a crowd, the share of the detection that it covers.
    """

    detections: np.ndarray
    objects: np.ndarray
    ious: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Candidates:
        """Select rows by their numbers or by a mask."""
        return Candidates(self.detections[rows], self.objects[rows], self.ious[rows])

    def in_order(self) -> Candidates:
        """Order them: a detection wants most what it overlaps most, of equals the first."""
        return self[np.lexsort((self.objects, -self.ious, self.detections))]

    def preferring(self, preferred: np.ndarray) -> Candidates:
        """Let detections want some objects, ``[A]`` bool, more than all others."""
        return self[np.lexsort((~preferred[self.objects], self.detections))]


def by_score(ground_truth: GroundTruth, predictions: DetectionTable) -> DetectionTable:
    """Order predictions best first; among equals by image id, then as they came.

    Those of frames that are not annotated are dropped, as no protocol knows them.
    """
    known = predictions[positions_in(ground_truth.image_ids, predictions.image_ids) >= 0]
    return known[np.lexsort((known.image_ids, -known.scores))]


def find_candidates(
    ground_truth: GroundTruth,
    predictions: DetectionTable,
    threshold: Threshold,
    *,
    pixel: float = 0.0,
    with_crowds: bool = False,
) -> Candidates:
    """Pair detections with objects of the same frame and class, in order of wishes.

    Args:
        ground_truth: The annotations.
        predictions: The detections.
        threshold: The least IoU, or how it follows from the boxes of the objects, ``[n, 4]``.
        pixel: Added to widths and heights, as in `vodet.box_pairs`.
        with_crowds: Whether crowds are objects too.
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
    return Candidates(*(np.concatenate(column) for column in zip(*parts, strict=True))).in_order()


def _keys(ground_truth: GroundTruth, predictions: DetectionTable) -> tuple[np.ndarray, np.ndarray]:
    """Number frame and class of each detection and of each annotated box."""
    classes = len(ground_truth.class_names)
    frames = positions_in(ground_truth.image_ids, predictions.image_ids)
    return frames * classes + predictions.labels, ground_truth.frames * classes + (
        ground_truth.labels
    )


def match(
    candidates: Candidates,
    num_detections: int,
    num_objects: int,
    shared: np.ndarray | None = None,
) -> np.ndarray:
    """Let each detection, best first, take the free object that it wants most.

    Detections do not wait for each other here: all ask at once for the object they want most, each
    object keeps the best that asked, and who lost it asks for the next. Where all objects rank the
    detections alike, this ends (Gale and Shapley, 1962) where choosing one by one does.

    Args:
        candidates: Who may match whom.
        num_detections: Their number; the lower its row, the earlier a detection chooses.
        num_objects: Number of annotated boxes.
        shared: ``[num_objects]`` bool, objects that any number of detections may have.

    Returns:
        The object of each detection, -1 for none, ``[num_detections]`` int64.
    """
    matched = np.full(num_detections, -1)
    is_first = np.diff(candidates.detections, prepend=-1) != 0
    wish = np.flatnonzero(is_first)  # of each detection that has candidates, by and by the next
    asked, ends = candidates.detections[wish], np.append(wish[1:], len(is_first))
    holders = np.full(num_objects, len(asked))  # of each object; none yet
    free = np.arange(len(asked))
    while free.size:
        targets = candidates.objects[wish[free]]
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
    """Say of which detections at least half lies in a crowd region of their class, ``[N]`` bool."""
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
    """Sum up a matching by class.

    Args:
        ground_truth: The annotations.
        predictions: The detections, best first.
        matched: What `match` returns.
        dropped: Which detections do not count if they found nothing, ``[N]`` bool.
        wanted: Which objects are to be found, ``[A]`` bool; what found another does not count.

    Returns:
        For each class whether its detections that count are true, ``[n]`` bool, and how many
        objects are to be found.
    """
    counts = ~dropped
    hits = matched >= 0
    counts[hits] = wanted[matched[hits]]
    rows = np.flatnonzero(counts)
    rows = rows[np.argsort(predictions.labels[rows], kind="stable")]
    classes = len(ground_truth.class_names)
    ends = np.searchsorted(predictions.labels[rows], np.arange(classes), side="right")
    numbers = np.bincount(ground_truth.labels[wanted], minlength=classes)
    parts = np.split(hits[rows], ends)[:classes]
    return list(zip(parts, numbers.tolist(), strict=True))


def ranks_in_frames(ground_truth: GroundTruth, predictions: DetectionTable) -> np.ndarray:
    """Number the detections of each class in each frame from 0, as they come, ``[N]`` int64."""
    keys, _ = _keys(ground_truth, predictions)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.arange(len(keys)) - np.searchsorted(ordered, ordered, side="left")
    return ranks
