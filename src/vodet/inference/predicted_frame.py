"""A frame with its detections, and conversions to the formats of other libraries."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vodet.errors import ConfigError
from vodet.inference.drawing import draw
from vodet.structures import Detections


@dataclass(frozen=True, eq=False, repr=False)
class PredictedFrame:
    """A frame of a video, or a still image, and the objects that the detector found in it.

    Attributes:
        image: The original frame, uint8 RGB ``[H, W, 3]``.
        detections: ``boxes`` ``[n, 4]`` xyxy in pixels of the image, ``scores`` ``[n]`` and
            ``labels`` ``[n]``, best first; tensors on the CPU.
        index: Number of the frame in its video, from 0.
        time: Seconds since the first frame of the video.
        video: Name of the video.
        name: Name of the image file; for a frame of a video file, its number.
        class_names: The class name of each label.

    Example:
        ::

            for frame in detector.predict("street.mp4"):
                print(frame.index, frame.time, frame.detections["boxes"])
                annotated = frame.plot()
    """

    image: np.ndarray
    detections: Detections
    index: int
    time: float
    video: str
    name: str
    class_names: tuple[str, ...]

    def __repr__(self) -> str:
        """Return a short text: the video, the frame, and the class and score of each detection."""
        found = ", ".join(
            f"{name} {score:.2f}"
            for name, score in zip(self._names(), self.detections["scores"].tolist(), strict=True)
        )
        where = f"video={self.video!r}, index={self.index}, time={self.time:.3f}"
        return f"PredictedFrame({where}, detections=[{found}])"

    def plot(self) -> np.ndarray:
        """Return a copy of the image with the detections drawn on it, uint8 RGB ``[H, W, 3]``."""
        return draw(self.image, self.detections, self.class_names)

    def to_supervision(self) -> Any:
        """Convert the detections to ``supervision.Detections``.

        The class names are in ``data["class_name"]``. ``tracker_id`` is set if the detections have
        an entry ``track_ids``.

        Raises:
            ConfigError: If supervision is not installed.
        """
        supervision = _optional("supervision")
        ids = self.detections.get("track_ids")
        return supervision.Detections(
            xyxy=self.detections["boxes"].float().numpy(),
            confidence=self.detections["scores"].float().numpy(),
            class_id=self.detections["labels"].numpy(),
            tracker_id=None if ids is None else ids.numpy(),
            data={"class_name": np.array(self._names(), dtype=str)},
        )

    def to_pandas(self) -> Any:
        """Convert the detections to a ``pandas.DataFrame`` with one row per detection.

        The columns are ``video``, ``frame``, ``time``, ``x1``, ``y1``, ``x2``, ``y2``, ``score``,
        ``label`` and ``class_name``. Concatenate frames with ``pandas.concat``.

        Raises:
            ConfigError: If pandas is not installed.
        """
        pandas = _optional("pandas")
        corners, names = self.detections["boxes"].float().numpy(), self._names()
        table = pandas.DataFrame(
            {
                "frame": np.full(len(names), self.index),
                "time": np.full(len(names), self.time),
                **dict(zip(("x1", "y1", "x2", "y2"), corners.T, strict=True)),
                "score": self.detections["scores"].float().numpy(),
                "label": self.detections["labels"].numpy(),
                "class_name": np.array(names, dtype=object),
            }
        )
        table.insert(0, "video", self.video)
        return table

    def to_coco(
        self, image_id: int | None = None, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Convert the detections to entries of a COCO results file.

        Args:
            image_id: Id of the image in the annotation file; by default the number of the frame.
            category_ids: Category id of each class name in the annotation file; by default the
                label.

        Returns:
            For each detection, ``{"image_id", "category_id", "bbox": [x, y, width, height],
            "score"}``.

        Raises:
            ConfigError: If ``category_ids`` lacks the class of a detection.
        """
        names = self._names()
        ids = category_ids or {name: label for label, name in enumerate(self.class_names)}
        if lacking := sorted(set(names) - set(ids)):
            msg = (
                f"category_ids: expected the ids of all detected classes, found none of "
                f"{', '.join(lacking)}."
            )
            raise ConfigError(msg)
        columns = (self.detections["boxes"].tolist(), self.detections["scores"].tolist())
        return [
            {
                "image_id": self.index if image_id is None else image_id,
                "category_id": ids[name],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for name, (x1, y1, x2, y2), score in zip(names, *columns, strict=True)
        ]

    def _names(self) -> list[str]:
        return [self.class_names[label] for label in self.detections["labels"].tolist()]


def _optional(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        msg = (
            f"This needs the package {package}, which cannot be imported ({error}). Install it "
            f"with pip install {package}, or with pip install 'vodet[video]'."
        )
        raise ConfigError(msg) from error
