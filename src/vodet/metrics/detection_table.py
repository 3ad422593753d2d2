"""The detections of a whole data set, stored as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from vodet.errors import DataError
from vodet.structures import Detections, GroundTruth


@dataclass(frozen=True)
class DetectionTable:
    """``N`` detections of many frames, a row for each detection, best first within a frame.

    Args:
        image_ids: Image id of the frame of each detection, ``[N]`` int64.
        boxes: xyxy in original pixels, ``[N, 4]`` float32.
        scores: Score of each detection, ``[N]`` float32.
        labels: Class of each detection, ``[N]`` int64.
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    @classmethod
    def of_frames(
        cls, image_ids: Sequence[int], detections: Sequence[Detections]
    ) -> DetectionTable:
        """Build a table from the detections of single frames.

        Args:
            image_ids: Image id of each frame.
            detections: Detections of each frame, with boxes in original pixels.

        Raises:
            DataError: If a box or a score is not finite.
        """
        predictions = cls(
            np.repeat(
                np.asarray(image_ids, np.int64), [len(found["scores"]) for found in detections]
            ),
            _column(detections, "boxes", torch.float32).reshape(-1, 4),
            _column(detections, "scores", torch.float32),
            _column(detections, "labels", torch.int64),
        )
        faulty = np.flatnonzero(~predictions.is_finite)
        if faulty.size:
            msg = (
                f"Expected finite boxes and scores from the detector, found {faulty.size} of "
                f"{len(predictions)} detections with NaN or infinite values, the first in image "
                f"id {predictions.image_ids[faulty[0]]}. The detector's weights are damaged, or "
                "its training has diverged: use another checkpoint."
            )
            raise DataError(msg)
        return predictions

    @classmethod
    def cat(cls, parts: Sequence[DetectionTable]) -> DetectionTable:
        """Return one table with the rows of one or more tables."""
        return cls(
            np.concatenate([part.image_ids for part in parts]),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, rows: np.ndarray) -> DetectionTable:
        """Return a table of some rows, given by their indices or by a mask."""
        return DetectionTable(
            self.image_ids[rows], self.boxes[rows], self.scores[rows], self.labels[rows]
        )

    def by_image(self) -> DetectionTable:
        """Return the table sorted by image id; detections of a frame keep their order."""
        return self[np.argsort(self.image_ids, kind="stable")]

    @property
    def is_finite(self) -> np.ndarray:
        """Whether the box and the score of each detection are finite, ``[N]`` bool."""
        finite: np.ndarray = np.isfinite(self.boxes).all(axis=1) & np.isfinite(self.scores)
        return finite


Measure = Callable[[GroundTruth, DetectionTable], dict[str, float]]  # an evaluation protocol


def _column(
    detections: Sequence[Detections],
    name: Literal["boxes", "scores", "labels"],
    dtype: torch.dtype,
) -> np.ndarray:
    parts = [found[name].detach() for found in detections]
    joined: np.ndarray = (torch.cat(parts) if parts else torch.empty(0)).to("cpu", dtype).numpy()
    return joined
