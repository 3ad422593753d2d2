"""VID AP50, the protocol of ImageNet's object detection from video (ILSVRC2015).

As ``eval_vid_detection.m`` of its development kit: corners are numbers of pixels, so that widths
are ``x2 - x1 + 1``; small objects need less overlap; one area under the curve for each class.
"""

from __future__ import annotations

import numpy as np

from vodet.box_pairs import areas
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.matching import by_score, find_candidates, in_crowds, match, outcomes
from vodet.metrics.precision_recall import area_under_curve, with_mean
from vodet.structures import GroundTruth

_PIXEL = 1.0  # a box from pixel 3 to pixel 3 is one pixel wide
_LEAST_IOU = 0.5
_TOLERANCE = 10.0  # pixels that a small object may be missed by, in width and in height


def vid_threshold(boxes: np.ndarray) -> np.ndarray:
    """Return the IoU from which objects count as found, lower for the small.

    ``min(0.5, w h / ((w + 10) (h + 10)))`` with ``w = x2 - x1 + 1``.

    Args:
        boxes: Of the objects, xyxy in pixels, ``[n, 4]``.

    Returns:
        ``[n]`` float64.
    """
    grown = areas(boxes, _PIXEL + _TOLERANCE)
    least: np.ndarray = np.minimum(_LEAST_IOU, areas(boxes, _PIXEL) / grown)
    return least


def vid_average_precision(
    ground_truth: GroundTruth, predictions: DetectionTable
) -> dict[str, float]:
    """Evaluate predictions by the protocol of ImageNet VID.

    In each frame and class, detections choose in order of their scores. A detection takes, of the
    objects that are still free and that it overlaps enough, the one of highest IoU (of equal IoUs
    the one annotated first), so a detection whose best object is taken can find another one. All
    detections of a frame count. The data set has no crowds; elsewhere a detection that found no
    object and of which half lies in a crowd region of its class is dropped, as by COCO.

    Among equal scores the order is that of image ids, then of ``predictions``.

    Returns:
        ``vid/ap_50``, the mean over the classes that have objects, and ``vid/ap_50/<class>``, NaN
        for a class without; from 0 to 1.
    """
    predictions = by_score(ground_truth, predictions)
    matched, dropped = vid_matches(ground_truth, predictions)
    of_classes = outcomes(ground_truth, predictions, matched, dropped, ~ground_truth.iscrowd)
    precisions = [area_under_curve(*outcome) for outcome in of_classes]
    return with_mean("vid/ap_50", ground_truth.class_names, precisions)


def vid_matches(
    ground_truth: GroundTruth, predictions: DetectionTable
) -> tuple[np.ndarray, np.ndarray]:
    """Match detections, best first, by the rule of `vid_average_precision`.

    Returns:
        The object of each, -1 for none, ``[N]`` int64; and whether half of it or more lies in a
        crowd region, so that it does not count without an object, ``[N]`` bool.
    """
    candidates = find_candidates(ground_truth, predictions, vid_threshold, pixel=_PIXEL)
    matched = match(candidates, len(predictions), len(ground_truth.boxes))
    return matched, in_crowds(ground_truth, predictions, pixel=_PIXEL)
