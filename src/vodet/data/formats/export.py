"""Writes detections in the text formats of benchmark toolkits, one detection per line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from vodet.data.annotations.index import VideoIndex
from vodet.data.annotations.st_coco_tables import leaves_root
from vodet.data.formats import kitti_tracking, uavdt
from vodet.data.formats.folders import listed
from vodet.errors import DataError
from vodet.files import replacing

_CHUNK = 100_000  # lines formatted at a time, to limit memory
_DECIMALS = 6  # for widths and heights, which are rounded because they are differences


class DetectionRows(NamedTuple):
    """Detections on a data set; element ``i`` of each array belongs to detection ``i``.

    Args:
        frames: Frame of each detection, as a row of the index, ``[N]`` int64.
        boxes: xyxy in original pixels, ``[N, 4]`` float64.
        scores: ``[N]`` float64.
        labels: ``[N]`` int64.
    """

    frames: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def select(self, rows: np.ndarray | slice) -> DetectionRows:
        """Return the detections at ``rows``: positions, a boolean mask or a slice."""
        return DetectionRows(*(column[rows] for column in self))


Columns = Sequence[np.ndarray | int]
# Makes the columns of a file from frame numbers, classes and detections.
LineMaker = Callable[[np.ndarray, np.ndarray, DetectionRows], Columns]


@dataclass(frozen=True)
class Toolkit:
    """The format in which a benchmark toolkit reads detections.

    Args:
        name: Name of the toolkit.
        classes: The toolkit's number or name for each class, by class name in ST-COCO.
        columns: Makes the columns of a file from frame numbers, classes and detections.
        separator: Separator of the values.
        first_frame: The number of the first frame of a sequence.
    """

    name: str
    classes: Mapping[str, int | str]
    columns: LineMaker
    separator: str = ","
    first_frame: int = 1

    def classes_of(self, index: VideoIndex) -> np.ndarray:
        """Return the toolkit's number or name of the class of each label of a data set.

        Raises:
            DataError: If the toolkit lacks a class of the data set.
        """
        if unknown := [name for name in index.class_names if name not in self.classes]:
            msg = (
                f"{index.source}: expected the classes of {self.name} ({', '.join(self.classes)}), "
                f"found {listed(unknown)}. Export with another --format."
            )
            raise DataError(msg)
        return np.array([self.classes[name] for name in index.class_names])


def _uavdt(numbers: np.ndarray, classes: np.ndarray, rows: DetectionRows) -> Columns:
    return numbers, -1, *_xywh(rows.boxes), rows.scores, classes, -1


def _mot(numbers: np.ndarray, _: np.ndarray, rows: DetectionRows) -> Columns:
    return numbers, -1, *_xywh(rows.boxes), rows.scores, -1, -1, -1


def _kitti(numbers: np.ndarray, classes: np.ndarray, rows: DetectionRows) -> Columns:
    track = truncated = occluded = height = width = length = -1
    alpha = rotation = -10
    x = y = z = -1000
    in_space = height, width, length, x, y, z, rotation
    unknown = truncated, occluded, alpha
    return numbers, track, classes, *unknown, *rows.boxes.T, *in_space, rows.scores


def _xywh(boxes: np.ndarray) -> tuple[np.ndarray, ...]:
    return *boxes[:, :2].T, *(boxes[:, 2:] - boxes[:, :2]).round(_DECIMALS).T


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Return the number of each name, counted from 1."""
    return {name: number for number, name in enumerate(names, start=1)}


SEQUENCE_TOOLKITS = {
    "uavdt": Toolkit("UAVDT", numbered(uavdt.CLASS_NAMES), _uavdt),
    "kitti": Toolkit(
        "KITTI tracking",
        {name: name.capitalize() for name in kitti_tracking.CLASS_NAMES},
        _kitti,
        " ",
        first_frame=0,
    ),
    "mot": Toolkit("MOT Challenge", numbered(["pedestrian"]), _mot),
}


def write_sequences(
    toolkit: Toolkit, index: VideoIndex, detections: DetectionRows, folder: Path
) -> None:
    """Write the detections of each sequence to a file named after the sequence.

    A sequence without detections gets an empty file. Lines are ordered by frame, then by descending
    score. Frame numbers and coordinates are as in the toolkit's own annotations, because
    `vodet-data convert` does not change them.

    - UAVDT, ``M0203.txt``: ``frame,-1,left,top,width,height,score,class,-1``, frames from 1. Class
      1 is car, 2 is truck, 3 is bus; the toolkit's evaluation ignores the class.
    - KITTI tracking, ``0002.txt``: ``frame -1 type -1 -1 -10 left top right bottom -1 -1 -1 -1000
      -1000 -1000 -10 score``, frames from 0. Unknown values (track, truncation, occlusion, angles,
      3D size and position) are set as the development kit prescribes.
    - MOT Challenge, ``MOT17-02-DPM.txt``: ``frame,-1,left,top,width,height,score,-1,-1,-1``,
      frames from 1, as in ``det.txt``.

    Args:
        toolkit: One of ``SEQUENCE_TOOLKITS``.
        index: The data set.
        detections: Detections on the data set.
        folder: The folder to write the files to.

    Raises:
        DataError: If the data set has classes that the toolkit lacks, frames before the toolkit's
            first frame, or videos whose names cannot be file names.
    """
    classes = toolkit.classes_of(index)
    names = [index.video_name(video) for video in range(index.num_videos)]
    _check_sequences(toolkit, index, names)
    ordered = detections.select(np.lexsort((-detections.scores, detections.frames)))
    starts = np.searchsorted(ordered.frames, index.video_starts)
    for name, start, end in zip(names, starts[:-1], starts[1:], strict=True):
        rows = ordered.select(slice(start, end))
        write_lines(folder / f"{name}.txt", toolkit, classes, index.frame_numbers, rows)


def _check_sequences(toolkit: Toolkit, index: VideoIndex, names: Sequence[str]) -> None:
    if leaving := [name for name in names if leaves_root(name)]:
        msg = (
            f"{index.source}: expected video names that can be file names, found {leaving[0]!r}. "
            "Rename the video in the annotations."
        )
        raise DataError(msg)
    first = int(index.frame_numbers.min(initial=toolkit.first_frame))
    if first < toolkit.first_frame:
        msg = (
            f"{index.source}: expected frames numbered from {toolkit.first_frame}, as in "
            f"{toolkit.name}, found frame {first}. Renumber the frames in the annotations."
        )
        raise DataError(msg)


def write_lines(
    path: Path,
    toolkit: Toolkit,
    classes: np.ndarray,
    frame_numbers: np.ndarray,
    rows: DetectionRows,
) -> None:
    """Write detections to a text file, which appears only when it is complete.

    Args:
        path: The file.
        toolkit: The toolkit that reads the file.
        classes: The toolkit's number or name of the class of each label.
        frame_numbers: The number to write for each frame of the index.
        rows: The detections, in the order of the lines.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        for start in range(0, len(rows.frames), _CHUNK):
            part = rows.select(slice(start, start + _CHUNK))
            columns = toolkit.columns(frame_numbers[part.frames], classes[part.labels], part)
            file.write(_lines(columns, len(part.frames), toolkit.separator))


def _lines(columns: Columns, count: int, separator: str) -> bytes:
    # Edited from JSON, [[1,0.5],[2,0.25]], because the encoder of msgspec formats numbers fastest.
    table = zip(*(np.broadcast_to(column, count).tolist() for column in columns), strict=True)
    rows = msgspec.json.encode(list(table))[2:-2].replace(b'"', b"").replace(b"],[", b"\n")
    return rows.replace(b",", separator.encode()) + b"\n"
