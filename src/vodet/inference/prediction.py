"""Runs a detector on a video; writes an annotated video and the detections as JSON Lines."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from vodet.files import replacing
from vodet.inference.drawing import draw
from vodet.inference.reading import FrameSource
from vodet.inference.selection import Selection
from vodet.inference.streams import FrameStream, Track, linked_frames
from vodet.inference.tubelet_linking import check_linking
from vodet.inference.writing import VideoWriter
from vodet.names import visible
from vodet.screen import Screen
from vodet.structures import Detections


@dataclass(frozen=True)
class PredictedVideo:
    """The output files of `predict_video` for one video, and statistics of the video.

    Args:
        video: Path of the video with the detections drawn on its frames.
        detections: Path of a JSON Lines file with one line per frame: ``{"frame": 0, "name":
            "000000", "detections": [{"box": [x1, y1, x2, y2], "score": 0.9, "label": "car"}]}``.
            Boxes are in pixels of the original frame.
        num_frames: Number of frames.
        num_detections: Number of detections whose score is at least the score threshold.
        seconds: Time from the first frame to the finished files, in seconds.
        faults: Sentences that describe missing and damaged frames; empty for an intact video.
    """

    video: Path
    detections: Path
    num_frames: int
    num_detections: int
    seconds: float
    faults: tuple[str, ...] = ()


def output_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the paths of the annotated video and the JSON Lines file for a video.

    Args:
        folder: The folder of both files.
        name: Name of the video, as in `FrameSource`.
    """
    return folder / f"{name}_detections.mp4", folder / f"{name}_detections.jsonl"


def predict_video(
    stream: FrameStream,
    source: FrameSource,
    folder: Path,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.3,
    chunk_size: int = 1,
    fps: Fraction | float | int = 25,
    tubelet_linking: str = "none",
    console: Screen | None = None,
) -> PredictedVideo:
    """Detect the objects of a video; write ``<name>_detections.mp4`` and ``.jsonl``.

    The files appear only when they are complete. If a video file is damaged, they contain every
    frame that can be decoded, and ``PredictedVideo.faults`` describes the damage. Detections are
    linked before the score threshold is applied.

    Args:
        stream: A stream that returns detections in pixels of the original frame, without a score
            threshold.
        source: The video.
        folder: The folder for both files, created if needed.
        class_names: The class name of each label.
        score_threshold: Minimum score of drawn and written detections.
        chunk_size: Number of frames passed to the stream at once.
        fps: Frames per second of the annotated video if the source has no frame rate.
        tubelet_linking: ``none`` or a name in `LINKINGS`. ``none`` and ``rescore_online`` read the
            video once; the other linkings need all detections first, so they read it twice.
        console: Shows the progress bar and the summary; standard output by default.

    Raises:
        ConfigError: If ``tubelet_linking`` is unknown.
        FrameError: If an image cannot be read, frames differ in size, or there are no frames.
        OutputError: If a file cannot be written.
    """
    check_linking(tubelet_linking)
    console = console or Screen()
    video, lines = output_files(folder, source.name)
    started = time.perf_counter()
    writer = VideoWriter(
        video, source.fps or fps, pixel_aspect=source.pixel_aspect, time_base=source.time_base
    )
    with (
        writer,
        replacing(lines) as partial,
        partial.open("wb") as file,
        _progress(console) as progress,
    ):
        records = _Records(file, class_names, score_threshold)
        detected = linked_frames(
            stream,
            source,
            chunk_size=chunk_size,
            tubelet_linking=tubelet_linking,
            track=_tracker(progress, visible(source.name)),
        )
        for (name, pixels, shown_at), detections in detected:
            selected = records.add(name, detections)
            writer.write(draw(pixels, selected, class_names), shown_at)
    seconds = time.perf_counter() - started
    counts = records.num_frames, records.num_detections
    result = PredictedVideo(video, lines, *counts, seconds, tuple(source.faults))
    console.print(_summary(result), soft_wrap=True)
    if not result.num_detections:
        console.print(records.why_nothing(), style="yellow", soft_wrap=True)
    return result


class _Records:
    """Writes detections with a score of at least the threshold, one JSON line per frame."""

    def __init__(self, file: IO[bytes], class_names: Sequence[str], threshold: float) -> None:
        self._file = file
        self._class_names = class_names
        self._threshold = threshold
        self._select = Selection(class_names, threshold)
        self._best = (-1.0, -1)  # score and label
        self.num_frames = 0
        self.num_detections = 0

    def add(self, name: str, detections: Detections) -> Detections:
        """Write the line of the next frame; return the detections in the line."""
        scores, labels = detections["scores"], detections["labels"]
        if len(scores):
            self._best = max(self._best, (float(scores.max()), int(labels[scores.argmax()])))
        selected = self._select(detections)
        columns = (selected[key].tolist() for key in ("boxes", "scores", "labels"))
        found = [
            {
                "box": [round(edge, 2) for edge in box],
                "score": round(score, 4),
                "label": self._class_names[label],
            }
            for box, score, label in zip(*columns, strict=True)
        ]
        text = os.fsencode(name).decode(errors="backslashreplace")  # a file name may not be UTF-8
        record = {"frame": self.num_frames, "name": text, "detections": found}
        self._file.write(msgspec.json.encode(record) + b"\n")
        self.num_frames += 1
        self.num_detections += len(found)
        return selected

    def why_nothing(self) -> str:
        score, label = self._best
        if label < 0:
            return "Nothing found: the detector returned no detections."
        return (
            f"Nothing found: the highest score was {score:.2g} for class "
            f"{self._class_names[label]}. Lower the score threshold "
            f"(score_threshold={self._threshold:g})."
        )


def _summary(result: PredictedVideo) -> str:
    rate = result.num_frames / result.seconds
    return (
        f"{result.num_frames} frames in {result.seconds:.1f} s ({rate:.1f} frames per second), "
        f"{result.num_detections} detections\n"
        f"  video       {result.video}\n"
        f"  detections  {result.detections}"
    )


class _Rate(ProgressColumn):
    """Shows the current rate in frames per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f} frames/s")


def _tracker(progress: Progress, name: str) -> Track:
    """Return a function that shows the progress of an iteration over a video's frames."""

    def track(items: Iterable[Any], total: int | None, description: str) -> Iterable[Any]:
        title = f"{name}: {description}" if description else name
        return progress.track(items, total, description=title)

    return track


def _progress(console: Screen) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        console=console,
    )
