"""Annotated videos and detections in them, made at random, for the tests of all protocols."""

from __future__ import annotations

import numpy as np

from vodet.metrics.detection_table import DetectionTable
from vodet.structures import GroundTruth


def moving_objects(
    rng: np.random.Generator,
    videos: int = 8,
    frames: int = 25,
    tracks: int = 6,
    classes: int = 3,
    crowds: float = 0.0,
    presence: tuple[float, ...] = (0.8,),
    attributes: dict[str, list[int]] | None = None,
) -> GroundTruth:
    """Make tracks of all speeds with gaps; frame numbers skip; image ids are in no order.

    The last class has no objects; some objects have no track id. Each track is seen in one of the
    shares ``presence`` of the frames. ``attributes`` are given with the videos that have them.
    """
    attributes = attributes or {}
    rows = []
    frame_numbers = np.sort(
        [rng.choice(frames * 2, frames, replace=False) for _ in range(videos)], axis=1
    )
    for video, numbers in enumerate(frame_numbers):
        for track in range(tracks):
            side = rng.uniform(4, 80, 2)
            start, speed = rng.uniform(0, 100, 2), rng.normal(0, rng.choice([0.1, 2, 12]), 2)
            label, share = rng.integers(0, classes - 1), rng.choice(presence)
            for frame, number in enumerate(numbers):
                if rng.random() < share:
                    corner = np.round(start + speed * number + rng.normal(0, 0.5, 2), 1)
                    rows.append((video * frames + frame, label, track, *corner, *(corner + side)))
        rows += [(video * frames + frame, 0, -1, 5, 5, 25, 40) for frame in range(0, frames, 6)]
    table = np.array(sorted(rows))
    all_frames, boxes = videos * frames, table[:, 3:].astype(np.float32)
    return GroundTruth(
        class_names=tuple(f"class {label}" for label in range(classes)),
        category_ids=np.arange(classes) + 1,
        image_ids=rng.permutation(all_frames * 3)[:all_frames],
        sizes=np.full((all_frames, 2), 400, np.int32),
        videos=np.repeat(np.arange(videos), frames),
        frame_numbers=frame_numbers.ravel().astype(np.int32),
        box_starts=np.searchsorted(table[:, 0], np.arange(all_frames + 1)),
        boxes=boxes,
        labels=table[:, 1].astype(np.int64),
        track_ids=table[:, 2].astype(np.int32),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        iscrowd=rng.random(len(table)) < crowds,
        attribute_names=tuple(attributes),
        video_attributes=np.array(
            [[video in having for having in attributes.values()] for video in range(videos)], bool
        ).reshape(videos, len(attributes)),
    )


def noisy_detections(
    rng: np.random.Generator, truth: GroundTruth, per_object: int = 2, extra: int = 4
) -> DetectionTable:
    """Find most objects, some of them twice and badly; add false detections; equal scores occur."""
    rows = np.repeat(np.arange(len(truth.boxes)), per_object)
    rows = rows[rng.random(len(rows)) < 0.7]
    shift = rng.normal(0, 1, (len(rows), 4)) * rng.choice([0.5, 3, 10], (len(rows), 1))
    corners = rng.uniform(0, 200, (extra * len(truth.image_ids), 2))
    false = np.hstack([corners, corners + rng.uniform(2, 100, corners.shape)])
    boxes = np.vstack([truth.boxes[rows] + shift, false])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    frames = np.append(truth.frames[rows], np.repeat(np.arange(len(truth.image_ids)), extra))
    labels = np.append(truth.labels[rows], rng.integers(0, len(truth.class_names), len(false)))
    scores = np.round(rng.random(len(boxes)), 2)
    order = np.lexsort((-scores, frames))
    return DetectionTable(
        truth.image_ids[frames][order],
        boxes[order].astype(np.float32),
        scores[order].astype(np.float32),
        labels[order],
    ).by_image()


def one_video(
    boxes: list[list[list[float]]],
    *,
    labels: list[list[int]] | None = None,
    track_ids: list[list[int]] | None = None,
    iscrowd: list[list[bool]] | None = None,
    classes: int = 1,
) -> GroundTruth:
    """Write out a video by hand: lists by frame; image id 100 is that of frame 0."""
    counts = [len(frame) for frame in boxes]
    corners = np.array([box for frame in boxes for box in frame], np.float32).reshape(-1, 4)
    flat = [
        np.array([value for frame in column for value in frame])
        if column is not None
        else np.zeros(sum(counts), int)
        for column in (labels, track_ids, iscrowd)
    ]
    return GroundTruth(
        class_names=tuple("abcdefgh"[:classes]),
        category_ids=np.arange(classes) + 1,
        image_ids=np.arange(len(boxes)) + 100,
        sizes=np.full((len(boxes), 2), 400, np.int32),
        videos=np.zeros(len(boxes), np.int64),
        frame_numbers=np.arange(len(boxes), dtype=np.int32),
        box_starts=np.append(0, np.cumsum(counts)),
        boxes=corners,
        labels=flat[0].astype(np.int64),
        track_ids=flat[1].astype(np.int32),
        areas=(corners[:, 2:] - corners[:, :2]).prod(axis=1),
        iscrowd=flat[2].astype(bool),
    )


def found(rows: list[tuple[int, list[float], float]], label: int = 0) -> DetectionTable:
    """Write out detections by hand: frame of `one_video`, box, score."""
    return DetectionTable(
        np.array([frame + 100 for frame, _, _ in rows], np.int64),
        np.array([box for _, box, _ in rows], np.float32).reshape(-1, 4),
        np.array([score for _, _, score in rows], np.float32),
        np.full(len(rows), label, np.int64),
    )
