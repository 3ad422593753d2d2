"""The classes that a detector confuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.matching import by_score, find_possible_matches, in_crowds, match
from vodet.structures import GroundTruth

_LEAST_IOU = 0.5


def confusion_matrix(
    ground_truth: GroundTruth, predictions: DetectionTable, score_threshold: float = 0.3
) -> np.ndarray:
    """Count how often objects of each class are detected as each class.

    Detections take objects by the rule of `match_any_class`. A detection that takes no object does
    not count if at least half of it lies in a crowd region of its class.

    Args:
        ground_truth: The annotations.
        predictions: The detections.
        score_threshold: Minimum score of a detection.

    Returns:
        ``[K + 1, K + 1]`` int64: a row per annotated class and a column per detected class. The
        last row contains the detections that take no object, the last column the objects that no
        detection takes.
    """
    predictions = predictions[predictions.scores >= np.float32(score_threshold)]
    predictions, matched = match_any_class(ground_truth, predictions)
    none = len(ground_truth.class_names)
    hits = matched >= 0
    counted = hits | ~in_crowds(ground_truth, predictions)
    annotated = np.full(len(predictions), none)
    annotated[hits] = ground_truth.labels[matched[hits]]
    missed = ~ground_truth.iscrowd
    missed[matched[hits]] = False
    rows = np.append(annotated[counted], ground_truth.labels[missed])
    columns = np.append(predictions.labels[counted], np.full(missed.sum(), none))
    counts = np.bincount(rows * (none + 1) + columns, minlength=(none + 1) ** 2)
    return counts.reshape(none + 1, none + 1)


def match_any_class(
    ground_truth: GroundTruth, predictions: DetectionTable
) -> tuple[DetectionTable, np.ndarray]:
    """Match detections to objects of their class, then the rest to objects of other classes.

    In both rounds, each detection, best first, takes the free object with the highest IoU in its
    frame, if this is at least 0.5.

    Returns:
        The detections, sorted best first, and the index of the annotated box that each detection
        takes, or -1, ``[N]`` int64.
    """
    predictions = by_score(ground_truth, predictions)
    pairs = find_possible_matches(
        replace(ground_truth, labels=np.zeros_like(ground_truth.labels)),
        replace(predictions, labels=np.zeros_like(predictions.labels)),
        _LEAST_IOU,
    )
    sizes = len(predictions), len(ground_truth.boxes)
    same = predictions.labels[pairs.detections] == ground_truth.labels[pairs.objects]
    matched = match(pairs[same], *sizes)
    taken = np.zeros(sizes[1], bool)
    taken[matched[matched >= 0]] = True
    others = match(pairs[(matched[pairs.detections] < 0) & ~taken[pairs.objects]], *sizes)
    return predictions, np.where(matched >= 0, matched, others)
