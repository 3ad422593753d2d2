"""Runs streams on videos: they take the frames in order and return the detections of each."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice, zip_longest
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from vodet.errors import ConfigError, FrameError
from vodet.inference.reading import FrameSource, NamedFrame
from vodet.inference.tubelet_linking import link_video, reads_twice
from vodet.inference.tubelet_rescoring import OpenTubelets, rescore_frame
from vodet.structures import Detections, FrameDetections


@runtime_checkable
class FrameStream(Protocol):
    """Takes the frames of a video and returns their detections in order, possibly with a delay."""

    def push(self, frames: np.ndarray, /) -> list[FrameDetections]:
        """Take the next frames, and return the detections that are now complete.

        Args:
            frames: uint8 RGB ``[n, H, W, 3]``.
        """

    def flush(self) -> list[FrameDetections]:
        """End the video and return the detections of the remaining frames."""


class RescoringStream:
    """Rescores the detections of another stream with `rescore_frame`; this adds no delay.

    Args:
        stream: The stream that returns detections. It should have no score threshold, because the
            mean score of a tubelet includes weak detections.
    """

    def __init__(self, stream: FrameStream) -> None:
        self._stream = stream
        self._tubelets = OpenTubelets.none()

    def push(self, frames: np.ndarray, /) -> list[FrameDetections]:
        """Take the next frames, and return the rescored detections that are now complete."""
        return self._rescored(self._stream.push(frames))

    def flush(self) -> list[FrameDetections]:
        """End the video and return its remaining detections. The next frame starts a new video."""
        results = self._rescored(self._stream.flush())
        self._tubelets = OpenTubelets.none()
        return results

    def _rescored(self, results: Sequence[FrameDetections]) -> list[FrameDetections]:
        return [replace(a, detections=self._rescored_frame(a.detections)) for a in results]

    def _rescored_frame(self, found: Detections) -> Detections:
        scores, self._tubelets = rescore_frame(
            self._tubelets,
            found["boxes"].cpu().numpy(),
            found["scores"].float().cpu().numpy(),
            found["labels"].cpu().numpy(),
        )
        new_scores = torch.from_numpy(scores).to(found["boxes"].device)
        best = new_scores.argsort(descending=True, stable=True)
        return Detections(
            boxes=found["boxes"][best], scores=new_scores[best], labels=found["labels"][best]
        )


# Yields the items it gets, and shows the progress; it also gets their number, if known, and a
# description.
Track = Callable[[Iterable[Any], int | None, str], Iterable[Any]]


def linked_frames(
    stream: FrameStream,
    source: FrameSource,
    *,
    chunk_size: int = 1,
    tubelet_linking: str = "none",
    track: Track = lambda items, total, description: items,
) -> Iterator[tuple[NamedFrame, Detections]]:
    """Run a stream on a video, link the detections, and yield each frame with its detections.

    Args:
        stream: The stream that returns detections, without a score threshold.
        source: The video. It is read once for ``none`` and ``rescore_online``. The other linkings
            need the detections of the whole video first, so they read it twice.
        chunk_size: Number of frames passed to the stream at once.
        tubelet_linking: ``none`` or a name in `LINKINGS`.
        track: Shows the progress.

    Raises:
        FrameError: If a frame cannot be read, or the second reading finds more or fewer frames.
    """
    is_offline = reads_twice(tubelet_linking)
    if tubelet_linking != "none" and not is_offline:
        stream = RescoringStream(stream)
    frames = processed_frames(stream, source, chunk_size)
    if not is_offline:
        yield from track(frames, source.length, "")
        return
    # The first pass keeps only detections, which need far less memory than frames.
    found = [detections for _, detections in track(frames, source.length, "detecting")]
    linked = link_video(found, tubelet_linking)
    yield from track(_again(source, linked), len(linked), "drawing")


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


def processed_frames(
    stream: FrameStream, frames: Iterable[NamedFrame], chunk_size: int = 1
) -> Iterator[tuple[NamedFrame, Detections]]:
    """Run a stream on the frames of a video, and yield each frame with its detections.

    Args:
        stream: The stream that returns detections.
        frames: The frames in order. Each is kept only until its detections are ready.
        chunk_size: Number of frames passed to the stream at once.
    """
    waiting: deque[NamedFrame] = deque()
    for chunk in _chunks(frames, chunk_size):
        waiting.extend(chunk)
        for result in stream.push(np.stack([frame.pixels for frame in chunk])):
            yield waiting.popleft(), result.detections
    for result in stream.flush():
        yield waiting.popleft(), result.detections


def _chunks(frames: Iterable[NamedFrame], size: int) -> Iterator[list[NamedFrame]]:
    iterator = iter(frames)
    while chunk := list(islice(iterator, size)):
        yield chunk


def check_numbers(chunk_size: Any, fps: Any) -> None:
    """Check the settings ``chunk_size`` and ``fps``.

    Raises:
        ConfigError: If a value is not a number or is out of range.
    """
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        msg = f"chunk_size must be a whole number and at least 1, found {chunk_size}."
        raise ConfigError(msg)
    is_number = isinstance(fps, int | float | Fraction) and not isinstance(fps, bool)
    if not is_number or not 0 < fps < math.inf:  # which NaN is not
        msg = f"fps must be a finite number above 0, found {fps}."
        raise ConfigError(msg)
