"""Which frames make a clip: pure functions of numbers.

Positions count the frames of one video in their order, from 0; a still image is a video of one
frame. Whatever is drawn comes from a generator of ``clip_generator``, so that a clip depends on
the seed and its `ClipDraw` alone, and not on who makes it or what was made before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64

from vodet.errors import ConfigError
from vodet.structures import ClipLayout, Window, clamped

POLICIES = ("previous", "anywhere")
LOSSES_ON = ("reference", "all")


class ClipDraw(NamedTuple):
    """A clip of an epoch: its number, and how often it has been drawn in the epoch before."""

    epoch: int
    clip: int
    repeat: int = 0


def clip_generator(seed: int, draw: ClipDraw) -> np.random.Generator:
    """Return the source of everything that is drawn for one clip in one epoch."""
    return np.random.default_rng([seed, *draw])


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


@dataclass(frozen=True)
class History:
    """Further windows that a training clip brings along, for stages that remember.

    Args:
        windows: How many.
        policy: ``previous``: the windows just before that of the clip, frame by frame, for
            recurrent states; ``anywhere``: windows elsewhere in the video that share no frame with
            that of the clip, for long-term attention.

    Raises:
        ConfigError: If the number is negative or the policy is unknown.
    """

    windows: int = 0
    policy: str = "anywhere"

    def __post_init__(self) -> None:
        if self.windows < 0 or self.policy not in POLICIES:
            msg = (
                "data.history needs windows >= 0 and a policy of "
                f"{', '.join(POLICIES)}; found windows={self.windows}, policy={self.policy!r}."
            )
            raise ConfigError(msg)


NO_HISTORY = History()


@dataclass(frozen=True)
class ClipSampling:
    """Which frames of a video make a training clip around a reference frame.

    Args:
        window: The frames that the detector sees around a reference frame.
        history: Further windows of the same video.
        temporal_dropout: Random choice of support frames in each window; None keeps all.
        losses_on: ``reference``: each clip is trained on its reference frame; ``all``: on each of
            the frames of its window, and of a history of previous windows, once. The clip then
            counts as a short video: windows repeat the frames at its borders.

    Raises:
        ConfigError: If ``losses_on`` is unknown, or the temporal dropout does not fit the window or
            comes with a history of previous windows, whose frames must be consecutive.
    """

    window: Window
    history: History = NO_HISTORY
    temporal_dropout: TemporalDropout | None = None
    losses_on: str = "reference"

    def __post_init__(self) -> None:
        if self.losses_on not in LOSSES_ON:
            msg = f"data.losses_on: expected {' or '.join(LOSSES_ON)}; found {self.losses_on!r}."
            raise ConfigError(msg)
        if self.temporal_dropout is not None:
            self.temporal_dropout.check(self.window)
            if self._is_recurrent:
                msg = (
                    "data.temporal_dropout leaves out frames, and data.history.policy=previous "
                    "needs all of them: set one of data.temporal_dropout=null, "
                    "data.history.windows=0."
                )
                raise ConfigError(msg)

    @property
    def _is_recurrent(self) -> bool:
        return self.history.windows > 0 and self.history.policy == "previous"

    @property
    def _previous_offsets(self) -> list[int]:
        """Frames of the window and of the previous ones, as distances from the reference frame."""
        references = range(-self.history.windows, 1)
        return sorted({start + offset for start in references for offset in self.window.offsets})

    @cached_property
    def layout(self) -> ClipLayout:
        """Which of the frames of a clip make which windows."""
        if self._is_recurrent:
            return self._recurrent_layout()
        dropout, window = self.temporal_dropout, self.window
        past, future = (dropout or window).past, (dropout or window).future
        length = past + 1 + future
        references = range(length) if self.losses_on == "all" else [past]
        steps = range(-past, future + 1)
        windows = [tuple(clamped(frame, steps, length)) for frame in references]
        starts = [length * number for number in range(1, self.history.windows + 1)]
        history = tuple(tuple(range(start, start + length)) for start in starts)
        return ClipLayout(tuple(windows), past, reference_frame=past, history=history)

    def _recurrent_layout(self) -> ClipLayout:
        frames = np.array(self._previous_offsets)

        def window_of(reference: int) -> tuple[int, ...]:
            wanted = reference + np.array(self.window.offsets)
            nearest = np.abs(frames - wanted[:, None]).argmin(axis=1)
            return tuple(nearest.tolist())

        now, place = int(np.flatnonzero(frames == 0)[0]), self.window.reference
        if self.losses_on == "all":
            windows = tuple(window_of(int(frame)) for frame in frames)
            return ClipLayout(windows, place, reference_frame=now)
        history = tuple(map(window_of, range(-self.history.windows, 0)))
        return ClipLayout((window_of(0),), place, reference_frame=now, history=history)

    def draw(self, reference: int, length: int, generator: np.random.Generator) -> list[int]:
        """Return the positions of the frames of a clip, in the order of `layout`.

        Args:
            reference: Position of the reference frame in its video.
            length: Number of frames of the video.
            generator: Source of what is drawn.
        """
        if self._is_recurrent:
            return clamped(reference, self._previous_offsets, length)
        references = [reference]
        if self.history.windows:
            references += references_elsewhere(
                self.history.windows, reference, length, self.window, generator
            )
        dropout, window = self.temporal_dropout, self.window
        positions = []
        for place in references:
            offsets = dropout.offsets(window, generator) if dropout else window.offsets
            positions += clamped(place, offsets, length)
        return positions


def references_elsewhere(
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
