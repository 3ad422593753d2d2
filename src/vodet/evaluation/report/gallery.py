"""Draws the events of a report: a strip of frames and a short video of each event."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vodet.data.frames.frame_reader import FrameReader
from vodet.data.frames.resize import Resize
from vodet.errors import FrameError
from vodet.evaluation.report.analysis import Analysis, EvaluatedData
from vodet.evaluation.report.events import Event
from vodet.id_lookup import positions_in
from vodet.inference.drawing import draw
from vodet.inference.writing import VideoWriter

FRAMES_PER_SECOND = 8

_SIDE, _STRIP_SIDE = 480, 320  # longest side in pixels of a frame of a video and of a strip
_AROUND = 6  # frames of the video before and after the event
_STRIP, _CLIP = 6, 40  # maximum number of frames of a strip and of a video
_QUALITY = 80
_GREY = 96


@dataclass(frozen=True)
class Picture:
    """One frame of a strip.

    Args:
        jpeg: The JPEG in base64.
        number: Number of the frame in its video.
        seconds: Where the frame is in the video of the event.
        is_concerned: Whether the event happens in this frame.
    """

    jpeg: str
    number: int
    seconds: float
    is_concerned: bool


@dataclass(frozen=True)
class Item:
    """An event with its pictures.

    Args:
        event: The event.
        video_name: Name of the video.
        numbers: The frame numbers of the first and the last frame of the event.
        strip: The frames; empty if the pictures of the gallery became too large.
        mp4: The video in base64; empty as for ``strip``.
        fault: Why images could not be read; empty if all were read.
    """

    event: Event
    video_name: str
    numbers: tuple[int, int]
    strip: list[Picture]
    mp4: str
    fault: str


class Gallery:
    """Draws events until their pictures and videos have reached a limit.

    The events after this limit get no pictures. Images that cannot be read are drawn in grey.

    Args:
        data: The data set.
        analyses: The runs.
        limit: Maximum number of bytes; the event that exceeds it is the last one with pictures.
    """

    def __init__(
        self, data: EvaluatedData, analyses: Sequence[Analysis], limit: int = 18_000_000
    ) -> None:
        self._data = data
        resize = Resize(_SIDE, _SIDE)
        self._reader = FrameReader(data.index, data.images or "", resize, "raise", data.exif)
        self._found = [
            run.run.predictions[run.run.predictions.scores >= np.float32(run.score_threshold)]
            for run in analyses
        ]
        self._left = limit

    def item(self, event: Event, runs: Sequence[int]) -> Item:
        """Draw an event with the detections of some of the runs, one below the other."""
        truth, index = self._data.ground_truth, self._data.index
        first, last = positions_in(index.image_ids, truth.image_ids[list(event.frames)]).tolist()
        video = index.video_of(first)
        rows = _clip(first, last, index.frames_of(video))
        strip, mp4, fault = [], "", ""
        if self._left > 0:
            frames, fault = self._drawn(rows, event, runs)
            strip = [
                self._picture(rows[place], frames[place], place, first <= rows[place] <= last)
                for place in _chosen(rows, first, last)
            ]
            mp4 = _encoded(frames)
            self._left -= len(mp4) + sum(len(picture.jpeg) for picture in strip)
        numbers = int(index.frame_numbers[first]), int(index.frame_numbers[last])
        return Item(event, index.video_name(video), numbers, strip, mp4, fault)

    def _drawn(
        self, rows: range, event: Event, runs: Sequence[int]
    ) -> tuple[list[np.ndarray], str]:
        """Return the drawn frames, and the first reason why an image could not be read."""
        drawn, faults = [], []
        for row in rows:
            pixels, fault = self._pixels(row)
            faults += [fault] if fault else []
            drawn.append(np.vstack([self._with_boxes(row, pixels, event, run) for run in runs]))
        height, width = np.max([frame.shape[:2] for frame in drawn], axis=0).tolist()
        # A video needs frames of one size; images of a video may differ.
        return [
            np.pad(frame, ((0, height - len(frame)), (0, width - frame.shape[1]), (0, 0)))
            for frame in drawn
        ], next(iter(faults), "")

    def _pixels(self, row: int) -> tuple[np.ndarray, str]:
        fault = ""
        if self._data.images is not None:
            try:
                return self._reader.read(row), fault
            except FrameError as error:
                fault = str(error)
        height, width = self._reader.resize.target_size(self._reader.size(row))
        return np.full((height, width, 3), _GREY, np.uint8), fault

    def _with_boxes(self, row: int, pixels: np.ndarray, event: Event, run: int) -> np.ndarray:
        index = self._data.index
        scale = np.tile(np.divide(pixels.shape[1::-1], self._reader.size(row)[::-1]), 2)
        drawing = pixels.copy()
        for box in index.boxes[index.boxes_of(row)]:
            _outline(drawing, box * scale, 2)
        (frame,) = positions_in(self._data.ground_truth.image_ids, index.image_ids[row : row + 1])
        if (box := event.focus.get(int(frame))) is not None:
            _outline(drawing, box * scale, 5)
        found = self._found[run]
        found = found[found.image_ids == index.image_ids[row]]
        columns = {"boxes": found.boxes * scale, "labels": found.labels, "scores": found.scores}
        return draw(drawing, columns, index.class_names)

    def _picture(self, row: int, frame: np.ndarray, place: int, is_concerned: bool) -> Picture:
        share = _STRIP_SIDE / _SIDE
        small = cv2.resize(frame, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        jpeg = cv2.imencode(".jpg", small[..., ::-1], options)[1].tobytes()
        seconds = (place + 0.5) / FRAMES_PER_SECOND
        number = int(self._data.index.frame_numbers[row])
        return Picture(base64.b64encode(jpeg).decode(), number, seconds, is_concerned)


def _clip(first: int, last: int, video: range) -> range:
    """Return the rows of the frames around an event: at most 40, from its start."""
    start = max(video.start, first - _AROUND)
    return range(start, min(video.stop, last + _AROUND + 1, start + _CLIP))


def _chosen(rows: range, first: int, last: int) -> Iterator[int]:
    """Yield the places in ``rows`` of the frames of a strip: those of the event and around it."""
    start, end = max(rows.start, first - 2), min(rows.stop - 1, last + 2)
    count = min(_STRIP, end - start + 1)
    for row in np.linspace(start, end, count).round().astype(int).tolist():
        yield row - rows.start


def _encoded(frames: Sequence[np.ndarray]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "event.mp4"
        with VideoWriter(path, FRAMES_PER_SECOND) as video:
            for frame in frames:
                video.write(frame)
        return base64.b64encode(path.read_bytes()).decode()


def _outline(drawing: np.ndarray, box: np.ndarray, width: int) -> None:
    """Draw a white box with black edges, which is visible on any background."""
    left, top, right, bottom = np.round(box).astype(int).tolist()
    for color, thickness in (((0, 0, 0), width + 2), ((255, 255, 255), width)):
        cv2.rectangle(drawing, (left, top), (right - 1, bottom - 1), color, thickness)
