"""Maps the detections of a head to pixels of the original image."""

from __future__ import annotations

from vodet.boxes import box_areas, clip_boxes, rescale_boxes
from vodet.structures import Detections, Size


def to_original(detections: Detections, size: Size, original_size: Size) -> Detections:
    """Map detections from pixels of the resized image to pixels of the original image.

    Boxes are clipped to the original image. Boxes that are empty after clipping are dropped.

    Args:
        detections: Detections in pixels of the detector's input.
        size: ``(height, width)`` of the resized image, which is in the top left of the input.
        original_size: ``(height, width)`` of the original image.
    """
    boxes = clip_boxes(rescale_boxes(detections["boxes"], size, original_size), original_size)
    kept = box_areas(boxes) > 0
    return Detections(
        boxes=boxes[kept], scores=detections["scores"][kept], labels=detections["labels"][kept]
    )


def above(detections: Detections, score_threshold: float) -> Detections:
    """Return the detections whose score is at least ``score_threshold``."""
    kept = detections["scores"] >= score_threshold
    return Detections(
        boxes=detections["boxes"][kept],
        scores=detections["scores"][kept],
        labels=detections["labels"][kept],
    )
