"""Writes detections in the format of ImageNet VID's development kit: one file for all videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vodet.data.annotations.index import VideoIndex
from vodet.data.formats.export import Columns, DetectionRows, Toolkit, numbered, write_lines
from vodet.data.formats.imagenet import CLASSES
from vodet.data.formats.tables import integer, raise_faults, read_rows


def _columns(numbers: np.ndarray, classes: np.ndarray, rows: DetectionRows) -> Columns:
    return numbers, classes, rows.scores, *rows.boxes.T


VID_DEVKIT = Toolkit("ImageNet VID", numbered(CLASSES.values()), _columns, " ")


def write_vid_devkit(
    index: VideoIndex, detections: DetectionRows, target: Path, val_list: Path | None = None
) -> None:
    """Write detections to the file that ImageNet VID's development kit evaluates.

    Each line is ``frame_index class_id score xmin ymin xmax ymax``; lines are ordered by frame,
    then by descending score. Class ids start at 1, in the kit's order of classes. Corners are
    written unchanged: the kit treats the corners of annotations and results as inclusive pixel
    indices, and so does VID AP50 in vodet, so both give the same AP.

    Args:
        index: The data set.
        detections: Detections on the data set.
        target: The file to write.
        val_list: The kit's ``val.txt``, with ``video/frame frame_index`` per line. Without it,
            frames are numbered from 1, ordered by video name, then by frame number, as in
            ``val.txt``; this is right only for a data set with exactly the frames of ``val.txt``.

    Raises:
        DataError: If the data set has classes that VID lacks, or ``val_list`` is faulty or lacks a
            frame with detections.
    """
    classes = VID_DEVKIT.classes_of(index)
    used = np.unique(detections.frames)
    numbers = _numbers_in_order(index) if val_list is None else _listed(index, used, val_list)
    order = np.lexsort((-detections.scores, numbers[detections.frames]))
    write_lines(target, VID_DEVKIT, classes, numbers, detections.select(order))


def _numbers_in_order(index: VideoIndex) -> np.ndarray:
    names = np.array([_of_list(index, video) for video in range(index.num_videos)])
    ranks = np.repeat(np.unique(names, return_inverse=True)[1], np.diff(index.video_starts))
    numbers = np.empty(index.num_frames, np.int64)
    numbers[np.lexsort((index.frame_numbers, ranks))] = np.arange(1, index.num_frames + 1)
    return numbers


def _of_list(index: VideoIndex, video: int) -> str:
    """Return the name of a video as in ``val.txt``, that is without the prefix ``val/``."""
    return index.video_name(video).removeprefix("val/")


def _listed(index: VideoIndex, used: np.ndarray, val_list: Path) -> np.ndarray:
    """Return the number in ``val_list`` of each frame of the index.

    Only the frames in the rows ``used`` are looked up; all other frames get 0.
    """
    rows = read_rows(val_list, {"frame": str, "frame_index": integer}, separator=None)
    known = {row.values["frame"]: row.values["frame_index"] for row in rows}
    videos = np.searchsorted(index.video_starts, used, side="right") - 1
    names = [
        f"{_of_list(index, video)}/{number:06d}"
        for video, number in zip(videos.tolist(), index.frame_numbers[used].tolist(), strict=True)
    ]
    faults = [f"expected the frame {name}, found none" for name in names if name not in known]
    if len(known) < len(rows):
        faults.append(f"expected each frame once, found {len(known)} frames in {len(rows)} lines")
    raise_faults(val_list, faults)
    numbers = np.zeros(index.num_frames, np.int64)
    numbers[used] = [known[name] for name in names]
    return numbers
