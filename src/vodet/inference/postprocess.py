"""From what a head decodes to what a user gets: detections in pixels of the original image."""

from __future__ import annotations

from vodet.boxes import box_areas, clip_boxes, rescale_boxes
from vodet.structures import Detections, Size


def to_original(
    detections: Detections,
    size: Size,
    original_size: Size,
    score_threshold: float = 0.0,
    max_detections: int = 100,
) -> Detections:
    """Map detections from input pixels to pixels of the original image, clipped to it.

    Boxes of which nothing is left inside the image are dropped.

    Args:
        detections: In input pixels, best first.
        size: Size of the picture in the upper left corner of the input.
        original_size: Size of the original image.
        score_threshold: The lowest score to keep.
        max_detections: The best so many are kept.
    """
    boxes = clip_boxes(rescale_boxes(detections["boxes"], size, original_size), original_size)
    wanted = (detections["scores"] >= score_threshold) & (box_areas(boxes) > 0)
    kept = wanted.nonzero()[:max_detections, 0]
    return Detections(
        boxes=boxes[kept], scores=detections["scores"][kept], labels=detections["labels"][kept]
    )
