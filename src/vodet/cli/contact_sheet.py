"""Drawings of annotated frames, and a contact sheet: videos as rows, frames as columns."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from vodet.data.annotations.index import VideoIndex
from vodet.inference.drawing import draw_detections

ReadFrame = Callable[[int], np.ndarray]

_READABLE = 320  # pixels of height below which names hide the objects they belong to


def draw_annotations(index: VideoIndex, frame: int, picture: np.ndarray) -> np.ndarray:
    """Draw the annotated boxes of a frame, with class names and track ids.

    Args:
        index: The data set.
        frame: Row of the frame in the index.
        picture: ``[H, W, 3]`` uint8 RGB.

    Returns:
        ``[k * H, k * W, 3]`` uint8 RGB, where ``k`` is more than 1 for small pictures.
    """
    factor = max(1, _READABLE // picture.shape[0])
    enlarged = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    boxes = index.boxes_of(frame)
    return draw_detections(
        enlarged,
        index.boxes[boxes] * factor,
        index.labels[boxes],
        index.class_names,
        track_ids=index.track_ids[boxes],
    )


def contact_sheet(
    index: VideoIndex, read: ReadFrame, *, max_videos: int = 6, max_frames: int = 8
) -> np.ndarray:
    """Draw the first frames of the first videos of a set whose frames are all of one size.

    Args:
        index: The data set.
        read: Gives the picture of a row of the index, ``[H, W, 3]`` uint8 RGB.
        max_videos: Number of rows at most.
        max_frames: Number of columns at most; a shorter video leaves the rest of its row black.

    Returns:
        uint8 RGB, each cell as ``draw_annotations`` returns it.
    """
    rows = [
        np.hstack([draw_annotations(index, frame, read(frame)) for frame in frames[:max_frames]])
        for frames in map(index.frames_of, range(index.num_videos)[:max_videos])
    ]
    height, width = len(rows[0]), max(row.shape[1] for row in rows)
    sheet = np.zeros((len(rows), height, width, 3), dtype=np.uint8)
    for line, row in zip(sheet, rows, strict=True):
        line[:, : row.shape[1]] = row
    return sheet.reshape(-1, width, 3)
