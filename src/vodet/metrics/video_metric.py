"""A metric that is computed once, on the detections of all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torchmetrics import Metric

from vodet.errors import ConfigError, DataError
from vodet.keys import positions_in
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.distributed import gather_to_first, on_first
from vodet.metrics.predictions import Measure, Predictions
from vodet.structures import Detections, GroundTruth


class VideoMetric(Metric):
    """COCO AP, or another protocol, of whole videos, exact for any number of processes.

    Processes may have seen different numbers of frames: nothing is exchanged before `compute`,
    which all of them must call. It brings the detections to the first process, orders them by image
    id, evaluates them there once and tells all the result. Frames without an `update` count as
    frames without detections.

    Args:
        ground_truth: The annotated frames.
        measure: What is computed; `coco_average_precision` by default.
    """

    def __init__(self, ground_truth: GroundTruth, measure: Measure | None = None) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.ground_truth = ground_truth
        self._measure = measure or coco_average_precision
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        super().reset()
        self._answered = [np.empty(0, np.int64)]
        self._found = [Predictions.of_frames([], [])]

    def update(self, image_ids: Sequence[int], detections: Sequence[Detections]) -> None:
        """Take the detections of annotated frames, in original pixels.

        Raises:
            DataError: If a frame is not among the annotated ones or a detection is not finite.
        """
        answered = np.asarray(image_ids, np.int64)
        unknown = answered[positions_in(self.ground_truth.image_ids, answered) < 0]
        if unknown.size:
            msg = f"Expected detections of annotated frames only, found image id {unknown[0]}."
            raise DataError(msg)
        self._answered.append(answered)
        self._found.append(Predictions.of_frames(image_ids, detections))

    def gather(self) -> Predictions | None:
        """Return the detections of all processes by image id on the first, None on the others.

        Raises:
            DataError: If a frame has been answered twice; on all processes.
        """
        own = np.concatenate(self._answered), Predictions.cat(self._found)
        parts = gather_to_first(own)
        on_first(_check_answered_once, parts)
        if parts is None:
            return None
        return Predictions.cat([found for _, found in parts]).by_image()

    def compute(self) -> dict[str, float]:
        """Return what is measured on the detections of all processes.

        Raises:
            DataError: If a frame has been answered twice; on all processes.
        """
        return on_first(
            lambda predictions: self._measure(self.ground_truth, predictions), self.gather()
        )

    def forward(self, *_args: Any, **_kwargs: Any) -> None:
        """Not offered: what is measured is no mean over batches.

        Raises:
            ConfigError: Always.
        """
        msg = (
            "This metric has no value for a single batch: call update(), and compute() at the end."
        )
        raise ConfigError(msg)


def _check_answered_once(parts: list[tuple[np.ndarray, Predictions]]) -> None:
    image_ids, counts = np.unique(
        np.concatenate([answered for answered, _ in parts]), return_counts=True
    )
    twice = image_ids[counts > 1]
    if twice.size:
        msg = (
            f"Expected each frame to be answered once, found {twice.size} answered more often, the "
            f"first image id {twice[0]}. Each video belongs to one process, and reset() between "
            "two evaluations."
        )
        raise DataError(msg)
