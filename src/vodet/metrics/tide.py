"""Errors by kind and the AP50 that they cost, as in TIDE.

TIDE is described by D. Bolya et al., ECCV 2020, arXiv 2008.08115.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.matching import (
    PossibleMatches,
    by_score,
    find_possible_matches,
    in_crowds,
    match,
    ranks_in_frames,
)
from vodet.metrics.precision_recall import mean_at_recall_points, mean_of_known
from vodet.structures import GroundTruth

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
FALSE_ALARMS = KINDS[:-1]  # the kinds of detections; an object is missed
NO_ERROR = -1

_CLASSIFICATION, _LOCALISATION, _BOTH, _DUPLICATE, _BACKGROUND = range(len(FALSE_ALARMS))
_FOREGROUND_IOU, _BACKGROUND_IOU = 0.5, 0.1
_MAX_DETECTIONS = 100  # per frame


@dataclass(frozen=True)
class DetectionErrors:
    """The errors of ``N`` detections, sorted best first, and of ``A`` annotated boxes.

    Args:
        predictions: The best 100 detections of each frame, over all classes.
        kinds: Kind of error of each detection, as an index into `KINDS`; -1 for true positives,
            ``[N]`` int64.
        dropped: Which detections do not count, because they take no object and at least half of
            them lies in a crowd region of their class, ``[N]`` bool.
        matched: The annotated box that each detection takes, or -1, ``[N]`` int64.
        corrected: The annotated box that each detection would take without its classification or
            localisation error, or -1, ``[N]`` int64. Only the best such detection of a box takes
            it.
        missed: Which objects no detection takes, not even without its error, ``[A]`` bool.
    """

    predictions: DetectionTable
    kinds: np.ndarray
    dropped: np.ndarray
    matched: np.ndarray
    corrected: np.ndarray
    missed: np.ndarray


def tide_errors(ground_truth: GroundTruth, predictions: DetectionTable) -> dict[str, float]:
    """Return the number of errors of each kind, and the AP50 that correcting them would gain.

    The results equal those of the package ``tidecv``, with two exceptions: errors of detections
    that lie in crowd regions are not counted, and classes without objects are left out of means.

    Returns:
        ``tide/ap_50``; for each kind in `KINDS`, the gain in AP50 ``tide/<kind>`` and the number of
        errors ``tide/num_<kind>``; ``tide/false_positives``, the gain if all false positives had
        lower scores than all true positives; and ``tide/false_negatives``, the gain if all objects
        without a detection were removed. AP and gains are from 0 to 1, NaN without objects.
    """
    errors = find_errors(ground_truth, predictions)
    corrections = _Corrections(ground_truth, errors)
    ap = corrections.ap_without()
    gains = {
        f"tide/{kind}": float(np.maximum(corrections.ap_without(number) - ap, 0))
        for number, kind in enumerate(KINDS)
    }
    counted = errors.kinds[(errors.kinds != NO_ERROR) & ~errors.dropped]
    counts = np.bincount(counted, minlength=len(FALSE_ALARMS))
    numbers = [*counts.tolist(), int(errors.missed.sum())]
    return {
        "tide/ap_50": ap,
        **gains,
        "tide/false_positives": corrections.ap_with_perfect_precision() - ap,
        "tide/false_negatives": corrections.ap_with_perfect_recall() - ap,
        **{f"tide/num_{kind}": float(number) for kind, number in zip(KINDS, numbers, strict=True)},
    }


def find_errors(ground_truth: GroundTruth, predictions: DetectionTable) -> DetectionErrors:
    """Determine the error of each detection and the objects that are missed.

    Detections are matched by the COCO rule at IoU 0.5. A detection that takes no object has the
    first error that applies:

    - ``localisation``: its IoU with an object of its class is from 0.1 to 0.5;
    - ``classification``: its IoU with an object of another class is at least 0.5;
    - ``duplicate``: its IoU with an object of its class is at least 0.5, but a better detection
      takes the object;
    - ``background``: its IoU with all objects is at most 0.1;
    - ``both``: it has a wrong class and a wrong place.
    """
    predictions = by_score(ground_truth, predictions)
    one_class = replace(ground_truth, labels=np.zeros_like(ground_truth.labels))
    merged = replace(predictions, labels=np.zeros_like(predictions.labels))
    is_kept = ranks_in_frames(one_class, merged) < _MAX_DETECTIONS
    predictions, merged = predictions[is_kept], merged[is_kept]
    pairs = find_possible_matches(one_class, merged, _BACKGROUND_IOU)
    same = predictions.labels[pairs.detections] == ground_truth.labels[pairs.objects]
    num_detections, num_objects = len(predictions), len(ground_truth.boxes)
    matched = match(pairs[same & (pairs.ious >= _FOREGROUND_IOU)], num_detections, num_objects)
    is_true = matched >= 0
    kinds, objects = _first_errors(pairs, same, num_detections)
    kinds[is_true] = NO_ERROR
    missed = ~ground_truth.iscrowd
    missed[matched[is_true]] = False
    rows = np.flatnonzero(~is_true & (objects >= 0))
    rows = rows[missed[objects[rows]]]
    found, best = np.unique(objects[rows], return_index=True)  # the first is the best
    corrected = np.full(num_detections, -1)
    corrected[rows[best]] = found
    missed[found] = False
    dropped = ~is_true & in_crowds(ground_truth, predictions)
    return DetectionErrors(predictions, kinds, dropped, matched, corrected, missed)


def _first_errors(
    pairs: PossibleMatches, same: np.ndarray, num_detections: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the kind of error of each detection, if it takes no object, and the object concerned.

    Args:
        pairs: The pairs of a detection and an object with an IoU of at least 0.1.
        same: Which pairs have the same class.
        num_detections: Number of detections.
    """
    kinds = np.full(num_detections, _BACKGROUND)
    kinds[pairs.detections[pairs.ious > _BACKGROUND_IOU]] = _BOTH
    objects = np.full(num_detections, -1)
    best, other = (_best_pairs(pairs[rows]) for rows in (same, ~same))
    duplicate = best.detections[best.ious >= _FOREGROUND_IOU]
    kinds[duplicate] = _DUPLICATE
    # An error that is tested earlier is written later.
    for kind, wrong in (
        (_CLASSIFICATION, other[other.ious >= _FOREGROUND_IOU]),
        (_LOCALISATION, best[best.ious <= _FOREGROUND_IOU]),
    ):
        kinds[wrong.detections] = kind
        objects[wrong.detections] = wrong.objects
    return kinds, objects


def _best_pairs(pairs: PossibleMatches) -> PossibleMatches:
    """Return the pair with the highest IoU of each detection."""
    return pairs[np.diff(pairs.detections, prepend=-1) != 0]


class _Corrections:
    """Computes AP50 as if errors had been corrected.

    Args:
        ground_truth: The annotations.
        errors: The errors of the detections.
    """

    def __init__(self, ground_truth: GroundTruth, errors: DetectionErrors) -> None:
        self._errors = errors
        self._labels = ground_truth.labels
        self._classes = len(ground_truth.class_names)
        self._numbers = self._count(~ground_truth.iscrowd)

    def ap_without(self, kind: int = NO_ERROR) -> float:
        """Return the AP50 after correcting all errors of a kind, by default none.

        A corrected detection becomes a true positive if no better detection takes its object;
        otherwise, it is removed.
        """
        errors = self._errors
        numbers = self._numbers
        if kind == KINDS.index("missed"):
            numbers = numbers - self._count(errors.missed)
        is_affected = (errors.kinds == kind) & (errors.kinds != NO_ERROR)
        corrected = np.flatnonzero(is_affected & (errors.corrected >= 0))
        labels = errors.predictions.labels.copy()
        labels[corrected] = self._labels[errors.corrected[corrected]]
        is_true = errors.matched >= 0
        is_true[corrected] = True
        return self._ap(labels, is_true, is_true | ~(is_affected | errors.dropped), numbers)

    def ap_with_perfect_precision(self) -> float:
        """Return the AP50 if all false positives had lower scores than all true positives."""
        is_true = self._errors.matched >= 0
        order = np.argsort(~is_true, kind="stable")
        labels = self._errors.predictions.labels
        return self._ap(labels[order], is_true[order], ~self._errors.dropped[order], self._numbers)

    def ap_with_perfect_recall(self) -> float:
        """Return the AP50 if all objects without a detection were removed."""
        matched = self._errors.matched
        labels = self._errors.predictions.labels
        numbers = np.bincount(labels[matched >= 0], minlength=self._classes)
        return self._ap(labels, matched >= 0, ~self._errors.dropped, numbers)

    def _count(self, objects: np.ndarray) -> np.ndarray:
        return np.bincount(self._labels[objects], minlength=self._classes)

    def _ap(
        self, labels: np.ndarray, is_true: np.ndarray, is_kept: np.ndarray, numbers: np.ndarray
    ) -> float:
        """Return the mean AP over the classes that have objects.

        If a class has no objects left, its AP is 0, or NaN if it has no detections either.

        Args:
            labels: Class of each detection, best first.
            is_true: Whether each detection is a true positive.
            is_kept: Whether each detection counts.
            numbers: Number of objects of each class.
        """
        values = []
        rows = np.flatnonzero(is_kept)
        rows = rows[np.argsort(labels[rows], kind="stable")]
        ends = np.searchsorted(labels[rows], np.arange(self._classes), side="right")
        for label, part in enumerate(np.split(rows, ends)[: self._classes]):
            if self._numbers[label]:
                no_objects = part.size and not numbers[label]
                value = mean_at_recall_points(is_true[part], int(numbers[label]))
                values.append(0.0 if no_objects else value)
        return mean_of_known(values)
