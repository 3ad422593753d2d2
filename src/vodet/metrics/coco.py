"""COCO average precision; and a metric that is computed once on the detections of all processes.

The protocol is that of https://cocodataset.org/#detection-eval: IoU 0.50:0.95, 101 recall points,
the best 100 detections of each class in a frame, crowds neither found nor missed. The matching is
that of faster-coco-eval, which gives the numbers of pycocotools.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from torchmetrics import Metric

from vodet.errors import ConfigError, DataError
from vodet.metrics.distributed import gather_to_first, on_first
from vodet.metrics.predictions import Measure, Predictions, positions_in
from vodet.structures import Detections, GroundTruth

_log = logging.getLogger(__name__)

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # objects below 32², from there to 96², above
_IOU_50, _IOU_75 = 0, 5  # among the thresholds 0.50, 0.55, ..., 0.95
_BEST_1, _BEST_10, _BEST_100 = range(3)  # detections of a class in a frame


class CocoAveragePrecision(Metric):
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
        """Not offered: AP is no mean over batches.

        Raises:
            ConfigError: Always.
        """
        msg = "COCO AP has no value for a single batch: call update(), and compute() at the end."
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


def coco_average_precision(ground_truth: GroundTruth, predictions: Predictions) -> dict[str, float]:
    """Evaluate predictions by the COCO protocol.

    Frames and predictions may come in any order; among equal scores the order is that of image ids,
    then of ``predictions``.

    Returns:
        ``map``, ``map_50``, ``map_75``, ``map_small``, ``map_medium``, ``map_large``, ``mar_1``,
        ``mar_10``, ``mar_100``, ``mar_small``, ``mar_medium``, ``mar_large``, and for each class
        ``map/<class>`` and ``map_50/<class>``; from 0 to 1. Means are over the classes that have
        objects (of that size); NaN where none has (COCO's own tools say -1).
    """
    curves = [
        _evaluate_class(ground_truth, predictions, label)
        for label in range(len(ground_truth.class_names))
    ]
    precision = np.stack([precision for precision, _ in curves])
    recall = np.stack([recall for _, recall in curves])
    result = {
        "map": _mean(precision[..., _ALL, _BEST_100]),
        "map_50": _mean(precision[:, _IOU_50, :, _ALL, _BEST_100]),
        "map_75": _mean(precision[:, _IOU_75, :, _ALL, _BEST_100]),
        "map_small": _mean(precision[..., _SMALL, _BEST_100]),
        "map_medium": _mean(precision[..., _MEDIUM, _BEST_100]),
        "map_large": _mean(precision[..., _LARGE, _BEST_100]),
        "mar_1": _mean(recall[..., _ALL, _BEST_1]),
        "mar_10": _mean(recall[..., _ALL, _BEST_10]),
        "mar_100": _mean(recall[..., _ALL, _BEST_100]),
        "mar_small": _mean(recall[..., _SMALL, _BEST_100]),
        "mar_medium": _mean(recall[..., _MEDIUM, _BEST_100]),
        "mar_large": _mean(recall[..., _LARGE, _BEST_100]),
    }
    for name, of_class in zip(ground_truth.class_names, precision, strict=True):
        result[f"map/{name}"] = _mean(of_class[..., _ALL, _BEST_100])
        result[f"map_50/{name}"] = _mean(of_class[_IOU_50, :, _ALL, _BEST_100])
    return result


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def _evaluate_class(
    ground_truth: GroundTruth, predictions: Predictions, label: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return precision ``[10, 101, 4, 3]`` and recall ``[10, 4, 3]``, -1 where undefined.

    Axes: IoU thresholds, recall points, area ranges, numbers of detections. One class at a time,
    and only the frames in which it is annotated or found: the backend wants a dictionary for each
    box and a list for each pair of frame and class, too much for a large data set at once.
    """
    wanted = ground_truth.labels == label
    frames = np.repeat(ground_truth.image_ids, np.diff(ground_truth.box_starts))[wanted]
    found = predictions[predictions.labels == label]
    if ground_truth.iscrowd[wanted].all():  # no object of this class
        return np.full((10, 101, 4, 3), -1.0), np.full((10, 4, 3), -1.0)
    # Image ids become positions: the backend keeps them as floating point numbers.
    image_ids, positions = np.unique(np.append(frames, found.image_ids), return_inverse=True)
    images = [{"id": position} for position in range(len(image_ids))]
    truth = _coco(
        images,
        positions[: len(frames)],
        ground_truth.boxes[wanted],
        area=ground_truth.areas[wanted],
        iscrowd=ground_truth.iscrowd[wanted].astype(int),
    )
    corners = found.boxes.astype(np.float64)
    detected = _coco(
        images,
        positions[len(frames) :],
        found.boxes,
        area=(corners[:, 2:] - corners[:, :2]).prod(axis=1),
        score=found.scores,
    )
    evaluation = COCOeval_faster(truth, detected, "bbox", print_function=_log.debug)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0], evaluation.eval["recall"][:, 0]


def _coco(
    images: list[dict[str, int]], positions: np.ndarray, boxes: np.ndarray, **columns: np.ndarray
) -> COCO:
    """Put boxes into the form of the backend."""
    bboxes = boxes.astype(np.float64)
    bboxes[:, 2:] -= bboxes[:, :2]
    names = ("id", "category_id", "image_id", "bbox", *columns)
    rows = zip(
        range(1, len(boxes) + 1),  # 0 means "not matched"
        [1] * len(boxes),
        positions.tolist(),
        bboxes.tolist(),
        *(column.tolist() for column in columns.values()),
        strict=True,
    )
    annotations = [dict(zip(names, row, strict=True)) for row in rows]
    dataset = {"images": images, "categories": [{"id": 1}], "annotations": annotations}
    return COCO(dataset, print_function=_log.debug)
