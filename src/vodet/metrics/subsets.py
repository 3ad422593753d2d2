"""True and false positives by the COCO rule, of all objects and of objects of a size or a speed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vodet.id_lookup import positions_in
from vodet.metrics import coco, motion, track_length
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.matching import (
    PossibleMatches,
    by_score,
    counted_rows,
    find_possible_matches,
    match,
    ranks_in_frames,
)
from vodet.metrics.precision_recall import mean_at_recall_points
from vodet.structures import GroundTruth

ALL = "all objects"


@dataclass(frozen=True)
class ClassOutcome:
    """The detections of one class that count, best first, at one IoU threshold.

    Args:
        is_true: Whether each detection is a true positive, ``[n]`` bool.
        scores: Score of each detection, ``[n]`` float32.
        videos: Index of each detection's video, ``[n]`` int64.
        objects: Number of objects to be found in each of ``V`` videos, ``[V]`` int64.
    """

    is_true: np.ndarray
    scores: np.ndarray
    videos: np.ndarray
    objects: np.ndarray

    @property
    def ap(self) -> float:
        """Average precision; NaN without objects."""
        return mean_at_recall_points(self.is_true, int(self.objects.sum()))


@dataclass(frozen=True)
class Subset:
    """The outcomes of the objects of a group.

    Args:
        group: What the objects have in common, such as ``size``; empty for all objects.
        name: Name of the subset in its group, such as ``small``.
        by_iou: For each IoU threshold, the outcome of each class. The first threshold is 0.5. Only
            the subset of all objects has further thresholds, up to 0.95.
    """

    group: str
    name: str
    by_iou: list[list[ClassOutcome]]


def subsets_of(ground_truth: GroundTruth, predictions: DetectionTable) -> list[Subset]:
    """Match detections by the COCO rule, for all objects and for the objects of each group.

    Objects of other groups are ignored, as in `coco_average_precision` for sizes and in
    `grouped_average_precision` for motion and track length.

    Returns:
        All objects, then the subsets by size, by motion and by track length.
    """
    predictions = by_score(ground_truth, predictions)
    predictions = predictions[ranks_in_frames(ground_truth, predictions) < coco.MAX_DETECTIONS]
    pairs = find_possible_matches(ground_truth, predictions, coco.IOUS[0], with_crowds=True)
    matcher = _Matcher(ground_truth, predictions, pairs)
    nothing = np.zeros(len(predictions), bool)
    everything = [matcher(float(iou), ~ground_truth.iscrowd, nothing) for iou in coco.IOUS]
    groups = [
        Subset(group, name, [matcher(0.5, wanted, dropped)])
        for group, name, wanted, dropped in _groups(ground_truth, predictions)
    ]
    return [Subset("", ALL, everything), *groups]


def _groups(
    ground_truth: GroundTruth, predictions: DetectionTable
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yield each group with the objects to be found and the detections that may be dropped."""
    sides = predictions.boxes[:, 2:].astype(np.float64) - predictions.boxes[:, :2]
    for name, (least, most) in coco.SIZES.items():
        within = (ground_truth.areas >= least) & (ground_truth.areas <= most)
        areas = sides.prod(axis=1)
        yield "size", name, within & ~ground_truth.iscrowd, (areas < least) | (areas > most)
    nothing = np.zeros(len(predictions), bool)
    for group, names, numbers in (
        ("motion", motion.GROUPS, motion.motion_groups(ground_truth)),
        ("track length", track_length.GROUPS, track_length.track_length_groups(ground_truth)),
    ):
        for number, name in enumerate(names):
            yield group, name, numbers == number, nothing


@dataclass(frozen=True)
class _Matcher:
    ground_truth: GroundTruth
    predictions: DetectionTable
    pairs: PossibleMatches

    def __call__(self, iou: float, wanted: np.ndarray, dropped: np.ndarray) -> list[ClassOutcome]:
        truth, predictions = self.ground_truth, self.predictions
        ordered = self.pairs.preferring(wanted)
        matched = match(
            ordered[ordered.ious >= iou],
            len(predictions),
            len(truth.boxes),
            shared=truth.iscrowd,
        )
        frames = positions_in(truth.image_ids, predictions.image_ids)
        videos = truth.videos[frames]
        number = int(truth.videos.max(initial=-1)) + 1
        of_objects = truth.videos[truth.frames]
        counted = counted_rows(truth, predictions, matched, dropped, wanted)
        return [
            ClassOutcome(
                matched[rows] >= 0,
                predictions.scores[rows],
                videos[rows],
                np.bincount(of_objects[wanted & (truth.labels == label)], minlength=number),
            )
            for label, rows in enumerate(counted)
        ]
