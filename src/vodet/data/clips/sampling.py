"""Selects the frames of a clip by their positions in the video.

The frames of a video have the positions 0, 1, 2, ...; a still image is a video of one frame. All
random choices use a generator from `clip_generator`, so a clip depends only on the seed and its
`ClipDraw`, not on the worker that builds it or on earlier clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64

from vodet.errors import ConfigError
from vodet.structures import ClipLayout, Window, clamped

POLICIES = ("previous", "anywhere", "earlier")
LOSSES_ON = ("reference", "all")


class ClipDraw(NamedTuple):
    """Identifies one draw of a clip in training.

    Args:
        epoch: The epoch.
        clip: Number of the clip in the data set.
        repeat: How often the clip was drawn before in the same epoch.
    """

    epoch: int
    clip: int
    repeat: int = 0


def clip_generator(seed: int, draw: ClipDraw) -> np.random.Generator:
    """Return the random generator for one draw of a clip in one epoch."""
    return np.random.default_rng([seed, *draw])


@dataclass(frozen=True)
class TemporalDropout:
    """Keeps only a random subset of the support frames of each training window.

    Args:
        past: Number of support frames kept before the reference frame.
        future: Number of support frames kept after the reference frame.

    Raises:
        ConfigError: If a number is negative.
    """

    past: int
    future: int

    def __post_init__(self) -> None:
        if self.past < 0 or self.future < 0:
            msg = (
                "data.temporal_dropout needs past >= 0 and future >= 0, found "
                f"past={self.past}, future={self.future}."
            )
            raise ConfigError(msg)

    def check(self, window: Window) -> None:
        """Check that a window has enough support frames.

        Raises:
            ConfigError: If the window has fewer support frames before or after the reference frame
                than should be kept.
        """
        if self.past > window.past or self.future > window.future:
            msg = (
                f"data.temporal_dropout keeps past={self.past}, future={self.future}: more support "
                f"frames than the window has (past={window.past}, future={window.future}). Keep "
                "fewer frames, or use a longer window."
            )
            raise ConfigError(msg)

    def offsets(self, window: Window, generator: np.random.Generator) -> tuple[int, ...]:
        """Draw the frames to keep; return their offsets from the reference frame, ascending.

        Offset 0, the reference frame, is at position ``past`` of the result.
        """
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
    """Additional windows of a training clip, from which stages compute their states.

    Args:
        windows: Number of history windows.
        policy: ``previous`` takes the windows of the frames just before the reference frame, for
            recurrent states; ``anywhere`` takes windows elsewhere in the video that share no frame
            with the window of the reference frame, for long-term attention; ``earlier``
            takes one window from each of ``windows`` equal parts of the video before the reference
            frame, like the key frames that a long-term memory has collected in a stream.

    Raises:
        ConfigError: If ``windows`` is negative or ``policy`` is unknown.
    """

    windows: int = 0
    policy: str = "anywhere"

    def __post_init__(self) -> None:
        if self.windows < 0 or self.policy not in POLICIES:
            msg = (
                f"data.history needs windows >= 0 and one of the policies {', '.join(POLICIES)}; "
                f"found windows={self.windows}, policy={self.policy!r}."
            )
            raise ConfigError(msg)


NO_HISTORY = History()


@dataclass(frozen=True)
class ClipSampling:
    """Selects the frames of a training clip around a reference frame.

    Args:
        window: The frames that the detector sees around a reference frame.
        history: Additional windows of the same video.
        temporal_dropout: Keeps a random subset of the support frames in each window; None keeps all
            support frames.
        losses_on: ``reference`` computes a loss only for the reference frame of a clip; ``all``
            computes a loss for every frame of its window, and of the previous windows if there is a
            history of them. The clip is then treated as a short video: windows that extend beyond
            it repeat its first or last frame.

    Raises:
        ConfigError: If ``losses_on`` is unknown, the temporal dropout keeps more frames than the
            window has, or it is combined with previous windows, whose frames must be consecutive.
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
                    "data.temporal_dropout leaves out frames, but data.history.policy=previous "
                    "needs all frames: set data.temporal_dropout=null or data.history.windows=0."
                )
                raise ConfigError(msg)

    @property
    def _is_recurrent(self) -> bool:
        return self.history.windows > 0 and self.history.policy == "previous"

    @cached_property
    def layout(self) -> ClipLayout:
        """The layout of all clips: which frames of a clip form each window."""
        kept, is_recurrent = self.temporal_dropout or self.window, self._is_recurrent
        window = self.window if is_recurrent else Window(kept.past, kept.future)
        earlier = self.history.windows if is_recurrent else 0
        reference = earlier + window.lookback
        length = reference + 1 + window.lookahead
        trained = range(length) if self.losses_on == "all" else [reference]
        if is_recurrent:
            before = [n for n in range(reference - earlier, reference) if n not in trained]
            history = [window.positions(number, length) for number in before]
        else:
            starts = range(length, length * (self.history.windows + 1), length)
            history = [list(range(start, start + length)) for start in starts]
        windows = [window.positions(number, length) for number in trained]
        return ClipLayout(
            tuple(map(tuple, windows)),
            window.past,
            reference_frame=reference,
            history=tuple(map(tuple, history)),
        )

    def draw(self, reference: int, length: int, generator: np.random.Generator) -> list[int]:
        """Draw the frames of a clip; return their positions in the video, in the order of `layout`.

        Args:
            reference: Position of the reference frame in its video.
            length: Number of frames of the video.
            generator: Random generator of the clip.
        """
        if self._is_recurrent:
            first = -(self.history.windows + self.window.lookback)
            return clamped(reference, range(first, self.window.lookahead + 1), length)
        references = [reference]
        count = self.history.windows
        if count and self.history.policy == "earlier":
            references += references_before(count, reference, generator)
        elif count:
            references += references_elsewhere(count, reference, length, self.window, generator)
        dropout, window = self.temporal_dropout, self.window
        positions = []
        for place in references:
            offsets = dropout.offsets(window, generator) if dropout else window.offsets
            positions += clamped(place, offsets, length)
        return positions

    def reach(self, reference: int, length: int) -> list[int]:
        """Return the positions of all frames that `draw` can return for a reference frame."""
        if self.history.windows and not self._is_recurrent:  # windows anywhere
            return list(range(length))
        kept, window = self.temporal_dropout or self.window, self.window
        first = -window.lookback if kept.past else 0
        last = window.lookahead if kept.future else 0
        earlier = self.history.windows if self._is_recurrent else 0
        step = 1 if self._is_recurrent else window.frame_stride
        return clamped(reference, range(first - earlier, last + 1, step), length)


def references_elsewhere(
    count: int, reference: int, length: int, window: Window, generator: np.random.Generator
) -> list[int]:
    """Draw the reference frames of additional windows of the same video.

    These windows share no frame with the window of ``reference``. If the video is too short for
    that, any of its frames can be drawn. With fewer candidates than ``count``, frames can be drawn
    repeatedly.

    Args:
        count: Number of additional windows.
        reference: Position of the clip's own reference frame.
        length: Number of frames of the video.
        window: The window around each reference frame.
        generator: Random generator of the clip.

    Returns:
        Positions of the drawn reference frames, ascending.
    """
    positions = np.arange(length)
    reach = window.lookback + window.lookahead
    away = positions[np.abs(positions - reference) > reach]
    candidates = away if len(away) else positions
    drawn = generator.choice(candidates, count, replace=len(candidates) < count)
    return sorted(drawn.tolist())


def references_before(count: int, reference: int, generator: np.random.Generator) -> list[int]:
    """Draw one reference frame from each of ``count`` equal parts of the video before a frame.

    If there are fewer earlier frames than parts, frames are drawn repeatedly. The first frame of a
    video has only itself.
    """
    parts = (np.arange(count) + generator.uniform(size=count)) / count
    drawn: list[int] = (parts * max(reference, 1)).astype(np.int64).tolist()
    return drawn


def evenly_spaced(
    positions: Int[np.ndarray, " n"], count: int | None
) -> Int[np.ndarray, " chosen"]:
    """Choose ``count`` evenly spaced elements of an array: the middle of each of ``count`` parts.

    Returns the whole array if it has at most ``count`` elements, or if ``count`` is None.
    """
    if count is None or count >= len(positions):
        return positions
    return positions[((np.arange(count) + 0.5) * len(positions) / count).astype(np.int64)]


def reference_frames(
    video_starts: Int64[np.ndarray, " starts"],
    is_annotated: Bool[np.ndarray, " frames"],
    clips_per_video: int | None = None,
) -> Int[np.ndarray, " clips"]:
    """Choose the reference frames of the training clips; return their rows in the index.

    Args:
        video_starts: Row of the first frame of each video, then the total number of frames.
        is_annotated: Whether each frame is annotated. Only annotated frames are chosen.
        clips_per_video: Maximum number of reference frames per video, evenly spaced; None chooses
            all annotated frames.
    """
    if clips_per_video is None:
        return np.flatnonzero(is_annotated)
    videos = np.split(np.arange(len(is_annotated)), video_starts[1:-1])
    return np.concatenate(
        [evenly_spaced(rows[is_annotated[rows]], clips_per_video) for rows in videos]
    )
