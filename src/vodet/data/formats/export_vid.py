"""Detections in the format of the development kit of ImageNet VID: one file for all videos."""

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
    """Write the file of the development kit of ImageNet VID.

    ``frame_index class_id score xmin ymin xmax ymax``, in order of frames, best detections first.
    Class ids are from 1, in the kit's order of the class names. Corners are written unchanged: the
    kit takes them as inclusive pixel numbers in annotations and in results, and VID AP50 here does
    the same, so that both give the same AP.

    Args:
        index: The data set.
        detections: Detections on it.
        target: The file to write.
        val_list: The kit's ``val.txt`` with ``video/frame frame_index`` a line. By default frames
            are numbered from 1 in order of the names of videos, then of frames, as in ``val.txt``:
            right for a data set that has its frames and no others.

    Raises:
        DataError: If the data set has classes that VID lacks, or the list is faulty or lacks a
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
    """Return the name of a video in the list, which lacks the split that our name begins with."""
    return index.video_name(video).removeprefix("val/")


def _listed(index: VideoIndex, used: np.ndarray, val_list: Path) -> np.ndarray:
    """Return the numbers of some frames in a list; the numbers of other frames are not set."""
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
