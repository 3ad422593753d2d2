"""Data exchanged between the stages of a detector: encoded frames, windows, candidates, memory.

Shape letters: ``F`` frames, ``B`` windows, ``T`` frames per window, ``C H W`` channels, height and
width, ``N`` candidates per frame. Boxes are ``xyxy`` float32 in input pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vodet.errors import ConfigError


@dataclass(frozen=True)
class FeatureSpec:
    """Channels and strides of the levels of a feature pyramid, finest first.

    Raises:
        ConfigError: If there are no levels, ``channels`` and ``strides`` differ in length, or the
            strides do not increase.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        ascending = all(
            fine < coarse for fine, coarse in zip(self.strides, self.strides[1:], strict=False)
        )
        if not self.channels or len(self.channels) != len(self.strides) or not ascending:
            msg = (
                "A feature pyramid needs one number of channels and one stride per level, with "
                f"increasing strides; found channels={self.channels}, strides={self.strides}."
            )
            raise ConfigError(msg)


@dataclass(frozen=True)
class FeatureMaps:
    """Feature maps of frames, one tensor per level, finest first.

    Each level is ``[N, C, H / stride, W / stride]`` for single frames and
    ``[B, T, C, H / stride, W / stride]`` for windows.
    """

    levels: tuple[Tensor, ...]

    def map(self, function: Callable[[Tensor], Tensor]) -> FeatureMaps:
        """Apply ``function`` to each level."""
        return FeatureMaps(tuple(function(level) for level in self.levels))

    def __len__(self) -> int:
        return len(self.levels[0])

    def __getitem__(self, index: Any) -> FeatureMaps:
        """Index the leading dimensions of every level in the same way."""
        return self.map(lambda level: level[index])


State = Mapping[str, Tensor]
"""State of one stage for ``B`` videos: named tensors ``[B, ...]`` of fixed shapes.

A stage takes its state and returns a new one. The tensors of a state are never modified in place.
"""


def prefixed(stage: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prefix tensor names with the name of their stage: ``logits`` becomes ``head.logits``."""
    return {f"{stage}.{name}": tensor for name, tensor in tensors.items()}


def of_stage(stage: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one stage without its prefix: the inverse of `prefixed`."""
    start = f"{stage}."
    return {n.removeprefix(start): tensor for n, tensor in tensors.items() if n.startswith(start)}


@dataclass(frozen=True)
class EncodedFrames:
    """Frames after per-frame encoding by all stages.

    Args:
        maps: Feature maps ``[F, C, h, w]`` per level.
        sizes: ``(height, width)`` of the picture in the upper left corner of each frame, ``[F, 2]``
            int64.
        extras: What each stage computed from a single frame, ``[F, ...]``. Names are prefixed with
            the name of the stage, such as ``head.logits``.
    """

    maps: FeatureMaps
    sizes: Tensor
    extras: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.sizes)

    def tensors(self) -> list[Tensor]:
        """Return all tensors in a fixed order."""
        return [*self.maps.levels, self.sizes, *self.extras.values()]

    def map(self, function: Callable[[Tensor], Tensor]) -> EncodedFrames:
        """Apply ``function`` to each tensor."""
        extras = {name: function(extra) for name, extra in self.extras.items()}
        return EncodedFrames(self.maps.map(function), function(self.sizes), extras)

    def seen_by(self, stage: str) -> EncodedFrames:
        """Return the same frames with only the extras of one stage, without its prefix."""
        return replace(self, extras=of_stage(stage, self.extras))


@dataclass(frozen=True)
class Selection:
    """One frame per window, chosen by index. Tensors are gathered (copied) on access.

    Args:
        frames: The frames to choose from.
        rows: Index of the chosen frame for each window, ``[B]`` int64.
    """

    frames: EncodedFrames
    rows: Tensor

    @property
    def maps(self) -> FeatureMaps:
        """Maps ``[B, C, h, w]``."""
        return self.frames.maps[self.rows]

    @property
    def sizes(self) -> Tensor:
        """Sizes of the pictures, ``[B, 2]``."""
        return self.frames.sizes[self.rows]

    def extra(self, name: str) -> Tensor:
        """Return one of the extras of the chosen frames, ``[B, ...]``."""
        return self.frames.extras[name][self.rows]

    @staticmethod
    def all(frames: EncodedFrames) -> Selection:
        """Select every frame once."""
        return Selection(frames, torch.arange(len(frames), device=frames.sizes.device))


@dataclass(frozen=True)
class WindowBatch:
    """Windows of encoded frames, one for each reference frame to predict.

    Args:
        frames: The frames of all windows, each stored once.
        index: Index in ``frames`` of each frame of each window, ``[B, T]`` int64.
        reference: Position of the reference frame in each window.
        current: The reference frames as the next stage sees them: the encoded frames themselves, or
            the fused frames after a map fusion.
    """

    frames: EncodedFrames
    index: Tensor
    reference: int
    current: Selection

    @staticmethod
    def of(frames: EncodedFrames, index: Tensor, reference: int) -> WindowBatch:
        """Return windows whose reference frames are not fused yet."""
        return WindowBatch(frames, index, reference, Selection(frames, index[:, reference]))

    @staticmethod
    def of_clips(frames: EncodedFrames, length: int, reference: int) -> WindowBatch:
        """Return one window per clip, for consecutive clips of ``length`` frames each."""
        index = torch.arange(len(frames), device=frames.sizes.device).view(-1, length)
        return WindowBatch.of(frames, index, reference)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def sizes(self) -> Tensor:
        """Sizes of the pictures of the reference frames, ``[B, 2]``."""
        return self.current.sizes

    @property
    def maps(self) -> FeatureMaps:
        """Encoded maps of all frames of the windows, ``[B, T, C, h, w]``."""
        shape = tuple(self.index.shape)
        rows = self.index.flatten()
        return self.frames.maps.map(
            lambda level: level.index_select(0, rows).unflatten(0, shape)  # type: ignore[no-untyped-call]  # untyped in torch
        )

    @property
    def reference_maps(self) -> FeatureMaps:
        """Maps of the reference frames, fused if there is a map fusion, ``[B, C, h, w]``."""
        return self.current.maps

    def extra(self, name: str) -> Tensor:
        """Return one of the extras of all frames of the windows, ``[B, T, ...]``."""
        return self.frames.extras[name][self.index]

    @property
    def places(self) -> list[Selection]:
        """The frames at each position of the windows, with the current reference frames."""
        places = [Selection(self.frames, rows) for rows in self.index.unbind(dim=1)]
        places[self.reference] = self.current
        return places

    def fused(self, references: EncodedFrames) -> WindowBatch:
        """Return the same windows with ``B`` fused reference frames."""
        return replace(self, current=Selection.all(references))

    def seen_by(self, stage: str) -> WindowBatch:
        """Return the same windows with only the extras of one stage, without its prefix."""
        current = replace(self.current, frames=self.current.frames.seen_by(stage))
        return replace(self, frames=self.frames.seen_by(stage), current=current)


@dataclass(frozen=True)
class CandidateSpec:
    """Shape of a candidate's features: ``[channels, resolution, resolution]``.

    A proposal has a grid of RoI features; a cell or a query has a single feature vector
    (``resolution`` 1).

    Args:
        channels: Number of channels.
        resolution: Length of each side of the grid.
        branches: 1, or 2 if the first half of the channels is for classes and the second half for
            boxes and objectness, as in a decoupled one-stage head.
    """

    channels: int
    resolution: int = 1
    branches: int = 1

    @property
    def width(self) -> int:
        """Number of features per candidate."""
        return self.channels * self.resolution**2

    @property
    def branch_width(self) -> int:
        """Number of features per candidate and branch."""
        return self.width // self.branches

    def split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Split features ``[B, N, C, s, s]`` into class and box features ``[B, N, branch_width]``.

        With a single branch, both are the same.
        """
        branches = features.flatten(2).chunk(self.branches, dim=2)
        return branches[0], branches[-1]


@dataclass(frozen=True)
class Candidates:
    """Candidate objects of windows with their features: proposals, cells or queries.

    The number of candidates is fixed; ``is_valid`` marks the rows that hold a candidate. Within a
    frame, candidates are sorted by score, best first.

    Args:
        features: For each of the ``T`` frames, ``[B, N, C, s, s]``.
        boxes: ``[B, T, N, 4]``.
        scores: Logits, ``[B, T, N]``.
        is_valid: ``[B, T, N]`` bool.
        sizes: ``(height, width)`` of the pictures, ``[B, 2]``.
        reference: Position of the reference frame among the ``T`` frames.
        linked: Whether candidate ``n`` is the same object in all frames.
        extras: What a candidate fusion encoded from each frame, ``[B, T', ...]``, where ``T'`` is
            the number of frames of the window even if ``T`` is 1.
        confidences: The two factors of a score, class score and objectness, from 0 to 1,
            ``[B, T, N, 2]``; None if there is only a single score, which then is both.
        previous_boxes: Boxes of linked candidates in the frame before the reference frame,
            ``[B, N, 4]``; None without links or without such a frame in the window.
    """

    features: tuple[Tensor, ...]
    boxes: Tensor
    scores: Tensor
    is_valid: Tensor
    sizes: Tensor
    reference: int
    linked: bool
    extras: Mapping[str, Tensor]
    confidences: Tensor | None = None
    previous_boxes: Tensor | None = None

    @property
    def factors(self) -> Tensor:
        """Class score and objectness of each candidate, from 0 to 1, ``[B, T, N, 2]``."""
        if self.confidences is None:
            return self.scores.sigmoid().unsqueeze(3).expand(-1, -1, -1, 2)
        return self.confidences

    @property
    def current(self) -> Candidates:
        """The candidates of the reference frames only."""
        one = slice(self.reference, self.reference + 1)
        return replace(
            self,
            features=self.features[one],
            boxes=self.boxes[:, one],
            scores=self.scores[:, one],
            is_valid=self.is_valid[:, one],
            reference=0,
            confidences=None if self.confidences is None else self.confidences[:, one],
        )

    def best(self, count: int) -> Candidates:
        """Return the first ``count`` candidates of each frame."""
        return replace(
            self,
            features=tuple(frame[:, :count] for frame in self.features),
            boxes=self.boxes[:, :, :count],
            scores=self.scores[:, :, :count],
            is_valid=self.is_valid[:, :, :count],
            confidences=None if self.confidences is None else self.confidences[:, :, :count],
            previous_boxes=None if self.previous_boxes is None else self.previous_boxes[:, :count],
        )

    def fused(self, features: Tensor) -> Candidates:
        """Return the candidates of the reference frames with new features ``[B, N, C, s, s]``."""
        return replace(self.current, features=(features,))


@dataclass(frozen=True)
class Memory:
    """The states of all stages for ``B`` videos.

    `VideoDetector.step` takes a memory and returns the memory for the next frames.

    Args:
        states: The state of each stage, by stage name.
    """

    states: Mapping[str, State]


for _value in (FeatureMaps, EncodedFrames, Selection, WindowBatch, Memory):
    torch.export.register_dataclass(_value)  # allows torch.export of a step with its memory
