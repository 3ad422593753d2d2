"""VID AP50, the protocol of ImageNet's object detection from video (ILSVRC2015).

It follows ``eval_vid_detection.m`` in the development kit. Box corners are pixel indices, so the
width of a box is ``x2 - x1 + 1``. For small objects, the IoU threshold is lower. AP is the area
under the precision-recall curve of a class.
"""

from __future__ import annotations

import numpy as np

from vodet.box_pairs import areas
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.matching import by_score, find_possible_matches, in_crowds, match, outcomes
from vodet.metrics.precision_recall import area_under_curve, with_mean
from vodet.structures import GroundTruth

_PIXEL = 1.0  # a box from pixel 3 to pixel 3 is one pixel wide
_LEAST_IOU = 0.5
_TOLERANCE = 10.0  # pixels by which a detection may exceed a small object in width and in height


def vid_threshold(boxes: np.ndarray) -> np.ndarray:
    """Return the minimum IoU at which each object counts as found; lower for small objects.

    It is ``min(0.5, w h / ((w + 10) (h + 10)))``, with ``w = x2 - x1 + 1`` and
    ``h = y2 - y1 + 1``.

    Args:
        boxes: The boxes of the objects, xyxy in pixels, ``[n, 4]``.

    Returns:
        ``[n]`` float64.
    """
    grown = areas(boxes, _PIXEL + _TOLERANCE)
    least: np.ndarray = np.minimum(_LEAST_IOU, areas(boxes, _PIXEL) / grown)
    return least


def vid_average_precision(
    ground_truth: GroundTruth, predictions: DetectionTable
) -> dict[str, float]:
    """Return average precision by the protocol of ImageNet VID.

    In each frame and class, detections are matched greedily, best score first. Each detection takes
    the object with the highest IoU among the free objects whose IoU reaches `vid_threshold`; of
    objects with equal IoU, it takes the object that is annotated first. The number of detections
    per frame is not limited. ImageNet VID has no crowds. In other data sets, a detection that
    matches no object is dropped if at least half of it lies in a crowd region of its class, as in
    COCO.

    Equal scores are ordered by image id, then by their order in ``predictions``.

    Returns:
        ``vid/ap_50``, the mean over the classes that have objects, and ``vid/ap_50/<class>``, NaN
        for a class without objects. Values are from 0 to 1.
    """
    predictions = by_score(ground_truth, predictions)
    matched, dropped = vid_matches(ground_truth, predictions)
    by_class = outcomes(ground_truth, predictions, matched, dropped, ~ground_truth.iscrowd)
    precisions = [area_under_curve(*outcome) for outcome in by_class]
    return with_mean("vid/ap_50", ground_truth.class_names, precisions)


def vid_matches(
    ground_truth: GroundTruth, predictions: DetectionTable
) -> tuple[np.ndarray, np.ndarray]:
    """Match detections, best first, by the rule of `vid_average_precision`.

    Returns:
        For each detection, the index of the annotated box that it takes, or -1, ``[N]`` int64; and
        whether at least half of the detection lies in a crowd region of its class, ``[N]`` bool. If
        it does, the detection counts only if it takes an object.
    """
    possible = find_possible_matches(ground_truth, predictions, vid_threshold, pixel=_PIXEL)
    matched = match(possible, len(predictions), len(ground_truth.boxes))
    return matched, in_crowds(ground_truth, predictions, pixel=_PIXEL)
