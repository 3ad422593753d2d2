"""Streams take the frames of a video in order, and return the detections of each frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from vodet.inference.reading import NamedFrame
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
