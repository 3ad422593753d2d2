"""COCO average precision.

The protocol is that of https://cocodataset.org/#detection-eval: IoU 0.50:0.95, 101 recall points,
the best 100 detections of each class in a frame, crowds neither found nor missed. The matching is
that of faster-coco-eval, which gives the numbers of pycocotools.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from vodet.metrics.predictions import Predictions, positions_in
from vodet.structures import GroundTruth

_log = logging.getLogger(__name__)

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # objects below 32², from there to 96², above
_IOU_50, _IOU_75 = 0, 5  # among the thresholds 0.50, 0.55, ..., 0.95
_BEST_1, _BEST_10, _BEST_100 = range(3)  # detections of a class in a frame


def coco_average_precision(ground_truth: GroundTruth, predictions: Predictions) -> dict[str, float]:
    """Evaluate predictions by the COCO protocol.

    Frames and predictions may come in any order; among equal scores the order is that of image ids,
    then of ``predictions``. Predictions of frames that are not annotated are dropped.

    Returns:
        ``map``, ``map_50``, ``map_75``, ``map_small``, ``map_medium``, ``map_large``, ``mar_1``,
        ``mar_10``, ``mar_100``, ``mar_small``, ``mar_medium``, ``mar_large``, and for each class
        ``map/<class>`` and ``map_50/<class>``; from 0 to 1. Means are over the classes that have
        objects (of that size); NaN where none has (COCO's own tools say -1).
    """
    known = positions_in(ground_truth.image_ids, predictions.image_ids) >= 0
    predictions = predictions[known]
    with _no_garbage_collection():
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


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Let no collection search the many dictionaries of the backend: a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
