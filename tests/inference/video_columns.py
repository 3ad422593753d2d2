"""Detections of a video in columns, made at random, for the tests of tubelet linking."""

from __future__ import annotations

import numpy as np

Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # frames, boxes, scores, labels


def slow_iou(box: np.ndarray, other: np.ndarray) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    sizes = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return width * height / (sum(sizes) - width * height)


def crowded_video(rng: np.random.Generator) -> Columns:
    """Detections of two classes around slowly moving boxes, with frames missing, in no order."""
    frames, boxes = [], []
    for frame in rng.permutation(np.delete(np.arange(40), [7, 20, 21])):
        for center in rng.choice([30, 60, 75, 140], rng.integers(1, 9)):
            corner = center + frame * 0.7 + rng.normal(0, 6, 2)
            boxes.append([*corner, *(corner + rng.normal(40, 4, 2))])
            frames.append(frame)
    number = len(frames)
    scores = rng.permutation(number).astype(np.float32) / number + 0.01
    return np.array(frames), np.array(boxes, np.float32), scores, rng.integers(0, 2, number)
