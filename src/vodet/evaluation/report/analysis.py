"""What a report shows of the detections of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vodet.data.annotations.index import VideoIndex
from vodet.data.frames.images import ExifUse
from vodet.metrics.confusion import confusion_matrix
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.stability import StabilitySums, finders_of, stability_sums
from vodet.metrics.subsets import ClassOutcome, Subset, subsets_of
from vodet.metrics.tide import tide_errors
from vodet.metrics.tracks import tracks_of
from vodet.structures import GroundTruth


@dataclass(frozen=True)
class EvaluatedData:
    """The data set of an evaluation.

    Args:
        index: The annotations.
        ground_truth: The annotated frames, with the same labels as ``index``.
        images: The image root, a folder or an fsspec URL; None if it is not known.
        exif: ``apply`` rotates images by their EXIF orientation; ``ignore`` leaves them as stored.
    """

    index: VideoIndex
    ground_truth: GroundTruth
    images: str | None = None
    exif: ExifUse = "apply"


@dataclass(frozen=True)
class Run:
    """The detections of one evaluation.

    Args:
        name: Name of the run in the report.
        predictions: The detections before tubelet linking.
        result: The metrics by name.
    """

    name: str
    predictions: DetectionTable
    result: Mapping[str, float]


@dataclass(frozen=True)
class Analysis:
    """Measures of a run that are computed when they are first used.

    Args:
        ground_truth: The annotations.
        run: The run.
        score_threshold: Minimum score of the detections in the confusion matrix, the stability and
            the gallery.
    """

    ground_truth: GroundTruth
    run: Run
    score_threshold: float

    @cached_property
    def subsets(self) -> list[Subset]:
        """True and false positives of all objects and of each group."""
        return subsets_of(self.ground_truth, self.run.predictions)

    @cached_property
    def tide(self) -> dict[str, float]:
        """Errors by kind."""
        return tide_errors(self.ground_truth, self.run.predictions)

    @cached_property
    def confusion(self) -> np.ndarray:
        """The confusion matrix, ``[K + 1, K + 1]``."""
        return confusion_matrix(self.ground_truth, self.run.predictions, self.score_threshold)

    @cached_property
    def stability(self) -> StabilitySums:
        """Stability by video."""
        return stability_sums(self.ground_truth, self.run.predictions, self.score_threshold)

    @cached_property
    def finders(self) -> tuple[np.ndarray, DetectionTable]:
        """The detection that takes each annotated box, and the detections: see `finders_of`."""
        return finders_of(self.ground_truth, self.run.predictions, self.score_threshold)

    def found_by_age(self) -> np.ndarray:
        """Return the share of objects that are found in the first, second, ... frame of a track.

        Returns:
            ``[longest track]`` float64; empty without tracks.
        """
        tracks = tracks_of(self.ground_truth)
        ages = np.arange(len(tracks)) - np.searchsorted(tracks.tracks, tracks.tracks)
        counts = np.bincount(ages)
        shares: np.ndarray = np.bincount(ages, self.finders[0][tracks.rows] >= 0) / counts
        return shares


def best_threshold(outcome: ClassOutcome) -> tuple[float, float]:
    """Return the score threshold with the highest F1 of a class, and this F1; NaN without any."""
    places = np.flatnonzero(outcome.is_true)
    if not places.size:
        return float("nan"), float("nan")
    f1 = 2 * np.arange(1, len(places) + 1) / (places + 1 + outcome.objects.sum())
    best = int(np.argmax(f1))
    return float(outcome.scores[places[best]]), float(f1[best])
