"""Runs a detector on a video; writes an annotated video and the detections as JSON Lines."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from vodet.errors import FrameError
from vodet.files import replacing
from vodet.inference.drawing import draw_detections
from vodet.inference.reading import FrameSource, NamedFrame
from vodet.inference.streams import FrameStream, RescoringStream, processed_frames
from vodet.inference.tubelet_linking import check_linking, link_video
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
        detected = _detected(stream, source, chunk_size, tubelet_linking, progress)
        for (name, pixels, shown_at), detections in detected:
            boxes, scores, labels = records.add(name, detections)
            drawing = draw_detections(pixels, boxes, labels, class_names, scores=scores)
            writer.write(drawing, shown_at)
    seconds = time.perf_counter() - started
    counts = records.num_frames, records.num_detections
    result = PredictedVideo(video, lines, *counts, seconds, tuple(source.faults))
    console.print(_summary(result), soft_wrap=True)
    if not result.num_detections:
        console.print(records.why_nothing(), style="yellow", soft_wrap=True)
    return result


def _detected(
    stream: FrameStream, source: FrameSource, chunk_size: int, linking: str, progress: Progress
) -> Iterable[tuple[NamedFrame, Detections]]:
    """Pair each frame with its detections, after linking them if required; show the progress."""
    if linking == "rescore_online":
        stream, linking = RescoringStream(stream), "none"
    name = visible(source.name)
    processed = progress.track(
        processed_frames(stream, source, chunk_size),
        source.length,
        description=name if linking == "none" else f"{name}: detecting",
    )
    if linking == "none":
        return processed
    # The first pass keeps only detections, which need far less memory than frames.
    linked = link_video([detections for _, detections in processed], linking)
    return progress.track(_again(source, linked), len(linked), description=f"{name}: drawing")


def _again(
    source: FrameSource, detections: Sequence[Detections]
) -> Iterator[tuple[NamedFrame, Detections]]:
    """Read the frames of a video again and pair them with their detections.

    Raises:
        FrameError: If the number of frames differs.
    """
    for frame, found in zip_longest(source, detections):
        if frame is None or found is None:
            msg = (
                f"Expected {len(detections)} frames when reading {source.name} a second time, "
                f"found {'fewer' if frame is None else 'more'}. Use "
                "tubelet_linking=rescore_online, which reads the video only once."
            )
            raise FrameError(msg)
        yield frame, found


class _Records:
    """Writes detections with a score of at least the threshold, one JSON line per frame."""

    def __init__(self, file: IO[bytes], class_names: Sequence[str], threshold: float) -> None:
        self._file = file
        self._class_names = class_names
        self._threshold = threshold
        self._best = (-1.0, -1)  # score and label
        self.num_frames = 0
        self.num_detections = 0

    def add(self, name: str, detections: Detections) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Write the line of the next frame; return the boxes, scores and labels in the line."""
        boxes = detections["boxes"].cpu().numpy()
        scores = detections["scores"].cpu().numpy()
        labels = detections["labels"].cpu().numpy()
        if len(scores):
            self._best = max(self._best, (float(scores.max()), int(labels[scores.argmax()])))
        kept = scores >= self._threshold
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        found = [
            {
                "box": [round(edge, 2) for edge in box],
                "score": round(score, 4),
                "label": self._class_names[label],
            }
            for box, score, label in zip(
                boxes.tolist(), scores.tolist(), labels.tolist(), strict=True
            )
        ]
        text = os.fsencode(name).decode(errors="backslashreplace")  # a file name may not be UTF-8
        record = {"frame": self.num_frames, "name": text, "detections": found}
        self._file.write(msgspec.json.encode(record) + b"\n")
        self.num_frames += 1
        self.num_detections += len(found)
        return boxes, scores, labels

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


def _progress(console: Screen) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        console=console,
    )
