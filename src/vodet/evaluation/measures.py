"""Computes the metrics of an evaluation from the detections of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vodet.errors import DataError
from vodet.id_lookup import positions_in
from vodet.inference.tubelet_linking import LINKINGS, check_linking
from vodet.metrics.detection_table import DetectionTable, Measure
from vodet.metrics.protocols import choose_protocols, measure_all
from vodet.structures import GroundTruth


@dataclass(frozen=True)
class Measures:
    """Computes the metrics of one or more evaluation protocols.

    Args:
        protocols: One or more of ``coco``, ``vid``, ``motion``, ``track_length``, ``uavdt`` and
            ``stability``.
        tubelet_linking: Method that links detections through a video: ``seq_nms``, ``rescore`` or
            ``rescore_online``. The metrics are computed twice: from the unchanged detections and,
            with names such as ``seq_nms/map``, from the linked detections. ``none`` computes only
            the former.
        score_threshold: Minimum score of the detections used for ``stability``.

    Raises:
        ConfigError: If a protocol or the linking does not exist.
    """

    protocols: str | Sequence[str] = ("coco",)
    tubelet_linking: str = "none"
    score_threshold: float = 0.3

    def __post_init__(self) -> None:
        check_linking(self.tubelet_linking)
        _ = self.by_name

    @property
    def by_name(self) -> dict[str, Measure]:
        """For the name of each protocol, the function that computes its metrics."""
        names = [self.protocols] if isinstance(self.protocols, str) else self.protocols
        return choose_protocols(names, self.score_threshold)

    def __call__(self, ground_truth: GroundTruth, predictions: DetectionTable) -> dict[str, float]:
        """Compute the metrics of the detections of a data set.

        Raises:
            DataError: If ``tubelet_linking`` is not ``none`` and a detection has a negative score,
                which is possible in an imported file.
        """
        result = measure_all(self.by_name, ground_truth, predictions)
        if self.tubelet_linking == "none":
            return result
        _check_scores(predictions, self.tubelet_linking)
        linked = link_tubelets(ground_truth, predictions, self.tubelet_linking)
        of_linked = measure_all(self.by_name, ground_truth, linked)
        return result | {f"{self.tubelet_linking}/{name}": of_linked[name] for name in of_linked}

    def names(self, ground_truth: GroundTruth) -> list[str]:
        """Return the names of the metrics for a data set, without computing the metrics."""
        no_frames = ground_truth.select(np.zeros(len(ground_truth.image_ids), bool))
        return list(self(no_frames, DetectionTable.of_frames([], [])))


def _check_scores(predictions: DetectionTable, linking: str) -> None:
    below = np.flatnonzero(predictions.scores < 0)
    if below.size:
        msg = (
            f"tubelet_linking={linking} needs scores of at least 0, found {below.size} of "
            f"{len(predictions)} detections with negative scores, the first in image id "
            f"{predictions.image_ids[below[0]]}. Set tubelet_linking=none, or use other scores."
        )
        raise DataError(msg)


def link_tubelets(
    ground_truth: GroundTruth, predictions: DetectionTable, linking: str
) -> DetectionTable:
    """Link the detections of each video into tubelets, which changes their scores.

    Detections are linked between neighbouring frames. Two frames are neighbours if no annotated
    frame of the video lies between them.

    Args:
        ground_truth: Annotations of the videos. Only the order of the frames is used.
        predictions: Detections of annotated frames.
        linking: Name of the method: a key of `LINKINGS`.

    Returns:
        The detections that the method keeps, with new scores, sorted by image id and, within an
        image, by score, highest first.
    """
    order = np.lexsort((ground_truth.frame_numbers, ground_truth.videos))
    is_new = np.diff(ground_truth.videos[order], prepend=ground_truth.videos[order][:1]) != 0
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order)) + np.cumsum(is_new)  # leaves a gap between videos
    frames = numbers[positions_in(ground_truth.image_ids, predictions.image_ids)]
    rows, scores = LINKINGS[linking](
        frames, predictions.boxes, predictions.scores, predictions.labels
    )
    kept = replace(predictions[rows], scores=scores)
    return kept[np.lexsort((-kept.scores, kept.image_ids))]
