"""Streams of detections: what answers the frames of a video in order, some later than they came."""

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
    """What detects: takes frames and answers them in order, some later than they came."""

    def push(self, frames: np.ndarray, /) -> list[FrameDetections]:
        """Take the next frames, uint8 RGB ``[n, H, W, 3]``; return the answers now known."""

    def flush(self) -> list[FrameDetections]:
        """Return the answers still outstanding: the video has ended."""


class RescoringStream:
    """Another stream, its detections rescored by `rescore_frame` as they come: nothing waits.

    Args:
        stream: Detects; without a score threshold, since weak detections go into the means too.
    """

    def __init__(self, stream: FrameStream) -> None:
        self._stream = stream
        self._tubelets = OpenTubelets.none()

    def push(self, frames: np.ndarray, /) -> list[FrameDetections]:
        """Take the next frames; return the answers now known."""
        return self._rescored(self._stream.push(frames))

    def flush(self) -> list[FrameDetections]:
        """Return the answers still outstanding: the video has ended. Then begin another one."""
        answers = self._rescored(self._stream.flush())
        self._tubelets = OpenTubelets.none()
        return answers

    def _rescored(self, answers: Sequence[FrameDetections]) -> list[FrameDetections]:
        return [replace(a, detections=self._rescored_frame(a.detections)) for a in answers]

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


def answered_frames(
    stream: FrameStream, frames: Iterable[NamedFrame], chunk_size: int = 1
) -> Iterator[tuple[NamedFrame, Detections]]:
    """Pair frames with their detections; a frame is held until its answer comes, no longer."""
    waiting: deque[NamedFrame] = deque()
    for chunk in _chunks(frames, chunk_size):
        waiting.extend(chunk)
        for answer in stream.push(np.stack([frame.pixels for frame in chunk])):
            yield waiting.popleft(), answer.detections
    for answer in stream.flush():
        yield waiting.popleft(), answer.detections


def _chunks(frames: Iterable[NamedFrame], size: int) -> Iterator[list[NamedFrame]]:
    iterator = iter(frames)
    while chunk := list(islice(iterator, size)):
        yield chunk
