"""Draws annotated frames and contact sheets, with one row per video and one column per frame."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from vodet.data.annotations.index import VideoIndex
from vodet.inference.drawing import draw

ReadFrame = Callable[[int], np.ndarray]

_READABLE = 320  # height in pixels; on smaller images, drawn names would hide their objects


def draw_annotations(index: VideoIndex, frame: int, picture: np.ndarray) -> np.ndarray:
    """Draw the annotated boxes of a frame, with class names and track ids.

    Args:
        index: The index of the data set.
        frame: Position of the frame in ``index``.
        picture: Image of the frame, ``[H, W, 3]`` uint8 RGB.

    Returns:
        ``[k * H, k * W, 3]`` uint8 RGB: small images are enlarged by a whole number ``k``.
    """
    factor = max(1, _READABLE // picture.shape[0])
    enlarged = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    boxes = index.boxes_of(frame)
    objects = {
        "boxes": index.boxes[boxes] * factor,
        "labels": index.labels[boxes],
        "track_ids": index.track_ids[boxes],
    }
    return draw(enlarged, objects, index.class_names)


def contact_sheet(
    index: VideoIndex, read: ReadFrame, *, max_videos: int = 6, max_frames: int = 8
) -> np.ndarray:
    """Draw evenly spaced frames of the first videos of a data set, all of the same size.

    Args:
        index: The index of the data set.
        read: Returns the image of a frame, ``[H, W, 3]`` uint8 RGB, given its position in
            ``index``.
        max_videos: Maximum number of rows.
        max_frames: Maximum number of columns. The row of a video with fewer frames ends in black.

    Returns:
        The contact sheet, uint8 RGB, a grid of the images that `draw_annotations` returns.
    """
    rows = []
    for frames in map(index.frames_of, range(index.num_videos)[:max_videos]):
        count = min(max_frames, len(frames))
        chosen = [frames[number * len(frames) // count] for number in range(count)]
        rows.append(np.hstack([draw_annotations(index, frame, read(frame)) for frame in chosen]))
    height, width = len(rows[0]), max(row.shape[1] for row in rows)
    sheet = np.zeros((len(rows), height, width, 3), dtype=np.uint8)
    for line, row in zip(sheet, rows, strict=True):
        line[:, : row.shape[1]] = row
    return sheet.reshape(-1, width, 3)
