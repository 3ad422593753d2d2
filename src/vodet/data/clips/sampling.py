"""Which frames make a clip: pure functions of numbers.

Positions count the frames of one video in their order, from 0; a still image is a video of one
frame. Whatever is drawn comes from a generator of ``clip_generator``, so that a clip depends on
the seed and its `ClipDraw` alone, and not on who makes it or what was made before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64

from vodet.errors import ConfigError
from vodet.structures import Window


class ClipDraw(NamedTuple):
    """A clip of an epoch: its number, and how often it has been drawn in the epoch before."""

    epoch: int
    clip: int
    repeat: int = 0


def clip_generator(seed: int, draw: ClipDraw) -> np.random.Generator:
    """Return the source of everything that is drawn for one clip in one epoch."""
    return np.random.default_rng([seed, *draw])


def window_positions(reference: int, length: int, offsets: Sequence[int]) -> list[int]:
    """Return the positions of a window; beyond the borders of the video the nearest is repeated.

    Args:
        reference: Position of the reference frame.
        length: Number of frames of the video.
        offsets: Distances from the reference frame.
    """
    return [min(max(reference + offset, 0), length - 1) for offset in offsets]


@dataclass(frozen=True)
class TemporalDropout:
    """Random choice of support frames, for training: every clip has the same length.

    Args:
        past: How many support frames before the reference frame are kept.
        future: How many after it.

    Raises:
        ConfigError: If a number is negative.
    """

    past: int
    future: int

    def __post_init__(self) -> None:
        if self.past < 0 or self.future < 0:
            msg = f"Temporal dropout keeps 0 or more support frames on each side, found {self}."
            raise ConfigError(msg)

    def check(self, window: Window) -> None:
        """Make sure that a window has the frames to choose from.

        Raises:
            ConfigError: If it has fewer support frames on one side than are to be kept.
        """
        if self.past > window.past or self.future > window.future:
            msg = f"{self} asks for more support frames than there are in {window}."
            raise ConfigError(msg)

    def offsets(self, window: Window, generator: np.random.Generator) -> tuple[int, ...]:
        """Draw offsets of the window, in order; the reference frame is at position ``past``."""
        past, future = np.arange(-window.past, 0), np.arange(1, window.future + 1)
        kept = np.concatenate(
            [
                np.sort(generator.choice(past, self.past, replace=False)),
                [0],
                np.sort(generator.choice(future, self.future, replace=False)),
            ]
        )
        return tuple(int(step) * window.frame_stride for step in kept)


def memory_references(
    count: int, reference: int, length: int, window: Window, generator: np.random.Generator
) -> list[int]:
    """Draw reference frames of further windows of the same video, in order.

    Their windows share no frame with that of ``reference``. A video too short for that gives any
    of its frames, and one with fewer frames than ``count`` gives some of them repeatedly.
    """
    positions = np.arange(length)
    reach = window.lookback + window.lookahead
    away = positions[np.abs(positions - reference) > reach]
    candidates = away if len(away) else positions
    drawn = generator.choice(candidates, count, replace=len(candidates) < count)
    return sorted(drawn.tolist())


def evenly_spaced(
    positions: Int[np.ndarray, " n"], count: int | None
) -> Int[np.ndarray, " chosen"]:
    """Choose the middles of ``count`` equal parts; all where there are no more than that."""
    if count is None or count >= len(positions):
        return positions
    return positions[((np.arange(count) + 0.5) * len(positions) / count).astype(np.int64)]


def reference_frames(
    video_starts: Int64[np.ndarray, " starts"],
    is_annotated: Bool[np.ndarray, " frames"],
    clips_per_video: int | None = None,
) -> Int[np.ndarray, " clips"]:
    """Return the rows of the frames to train on: annotated ones, evenly spaced in each video.

    Args:
        video_starts: Where the frames of each video start, and where the last one ends.
        is_annotated: Whether the objects of each frame are known.
        clips_per_video: The most frames of one video; None takes all.
    """
    if clips_per_video is None:
        return np.flatnonzero(is_annotated)
    videos = np.split(np.arange(len(is_annotated)), video_starts[1:-1])
    return np.concatenate(
        [evenly_spaced(rows[is_annotated[rows]], clips_per_video) for rows in videos]
    )
