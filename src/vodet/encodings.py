"""What the stages of a detector hand to each other: encoded frames, windows, candidates, memory.

Shape letters: ``F`` frames, ``B`` windows, ``T`` frames of a window, ``C H W`` channels, height and
width, ``N`` candidates of a frame. Boxes are ``xyxy`` float32 in pixels of the input.
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
        ConfigError: If there is no level, the lengths differ or the strides do not ascend.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        ascending = all(
            fine < coarse for fine, coarse in zip(self.strides, self.strides[1:], strict=False)
        )
        if not self.channels or len(self.channels) != len(self.strides) or not ascending:
            msg = (
                "A feature pyramid needs one channel number and one stride per level, ascending; "
                f"found channels={self.channels}, strides={self.strides}."
            )
            raise ConfigError(msg)


@dataclass(frozen=True)
class FeatureMaps:
    """Feature maps of some frames, one tensor per level, finest first.

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
        """Index the leading dimensions of every level alike."""
        return self.map(lambda level: level[index])


State = Mapping[str, Tensor]
"""What one stage remembers of ``B`` videos: named tensors ``[B, ...]`` of fixed shapes.

A stage takes its state and returns a new one; nobody writes into the tensors of a state.
"""


def prefixed(stage: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the name of a stage before the names of its tensors: ``logits`` is ``head.logits``."""
    return {f"{stage}.{name}": tensor for name, tensor in tensors.items()}


def of_stage(stage: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one stage by their own names: the inverse of `prefixed`."""
    start = f"{stage}."
    return {n.removeprefix(start): tensor for n, tensor in tensors.items() if n.startswith(start)}


@dataclass(frozen=True)
class EncodedFrames:
    """Frames as the stages have encoded them, each frame by itself.

    Args:
        maps: Feature maps ``[F, C, h, w]`` per level.
        sizes: ``(height, width)`` of the picture in the upper left corner of each frame, ``[F, 2]``
            int64.
        extras: What stages have found in each frame alone, ``[F, ...]``, under names that begin
            with the name of the stage: ``head.logits``.
    """

    maps: FeatureMaps
    sizes: Tensor
    extras: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.sizes)

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in a fixed order."""
        return [*self.maps.levels, self.sizes, *self.extras.values()]

    def map(self, function: Callable[[Tensor], Tensor]) -> EncodedFrames:
        """Apply ``function`` to each tensor."""
        extras = {name: function(extra) for name, extra in self.extras.items()}
        return EncodedFrames(self.maps.map(function), function(self.sizes), extras)

    def seen_by(self, stage: str) -> EncodedFrames:
        """Return the same frames with the extras of one stage alone, under its own names."""
        return replace(self, extras=of_stage(stage, self.extras))


@dataclass(frozen=True)
class Selection:
    """One of some frames for each window, by index: a tensor is copied when it is asked for.

    Args:
        frames: The frames to choose from.
        rows: Which of them is chosen for each window, ``[B]`` int64.
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
        """Return an extra of the chosen frames, ``[B, ...]``."""
        return self.frames.extras[name][self.rows]


@dataclass(frozen=True)
class WindowBatch:
    """Windows of encoded frames, one for each reference frame that is to be predicted.

    Args:
        frames: The frames of all windows, each once.
        index: Which frame is at each place of each window, ``[B, T]`` int64.
        reference: Place of the reference frame in each window.
        current: The reference frames as the stages before have left them: those of ``frames``, or
            others after a map fusion.
    """

    frames: EncodedFrames
    index: Tensor
    reference: int
    current: Selection

    @staticmethod
    def of(frames: EncodedFrames, index: Tensor, reference: int) -> WindowBatch:
        """Return windows whose reference frames are as encoded."""
        return WindowBatch(frames, index, reference, Selection(frames, index[:, reference]))

    @staticmethod
    def of_clips(frames: EncodedFrames, length: int, reference: int) -> WindowBatch:
        """Return the windows of clips of ``length`` frames that lie one after the other."""
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
        """Maps of the whole windows as encoded, ``[B, T, C, h, w]``."""
        shape = tuple(self.index.shape)
        rows = self.index.flatten()
        return self.frames.maps.map(
            lambda level: level.index_select(0, rows).unflatten(0, shape)  # type: ignore[no-untyped-call]  # torch gives it no types
        )

    @property
    def reference_maps(self) -> FeatureMaps:
        """Maps of the reference frames, after a map fusion where there is one, ``[B, C, h, w]``."""
        return self.current.maps

    def extra(self, name: str) -> Tensor:
        """Return an extra of the whole windows as encoded, ``[B, T, ...]``."""
        return self.frames.extras[name][self.index]

    def at(self, place: int) -> Selection:
        """Return the frames at one place of the windows."""
        if place == self.reference:
            return self.current
        return Selection(self.frames, self.index[:, place])

    def fused(self, references: EncodedFrames) -> WindowBatch:
        """Return the same windows with other reference frames, ``B`` of them."""
        rows = torch.arange(len(references), device=references.sizes.device)
        return replace(self, current=Selection(references, rows))

    def seen_by(self, stage: str) -> WindowBatch:
        """Return the same windows with the extras of one stage alone, under its own names."""
        current = replace(self.current, frames=self.current.frames.seen_by(stage))
        return replace(self, frames=self.frames.seen_by(stage), current=current)


@dataclass(frozen=True)
class CandidateSpec:
    """What the features of a candidate look like: ``channels`` on a grid of ``resolution`` squared.

    A proposal has the grid of its RoI features, a cell or a query a single feature vector.
    """

    channels: int
    resolution: int = 1

    @property
    def width(self) -> int:
        """Number of features of a candidate."""
        return self.channels * self.resolution**2


@dataclass(frozen=True)
class Candidates:
    """Possible objects of windows, each with features: proposals, cells or queries.

    The number of candidates is fixed; ``is_valid`` says which of them are there. In each frame the
    best come first.

    Args:
        features: For each of the ``T`` frames, ``[B, N, C, s, s]``.
        boxes: ``[B, T, N, 4]``.
        scores: Logits, ``[B, T, N]``.
        is_valid: ``[B, T, N]`` bool.
        sizes: ``(height, width)`` of the pictures, ``[B, 2]``.
        reference: Place of the reference frame among the ``T``.
        linked: Whether candidate ``n`` is the same object in all frames.
        extras: What a candidate fusion has encoded of each frame of the windows, ``[B, T', ...]``
            with all the frames of the window, also where ``T`` is 1.
    """

    features: tuple[Tensor, ...]
    boxes: Tensor
    scores: Tensor
    is_valid: Tensor
    sizes: Tensor
    reference: int
    linked: bool
    extras: Mapping[str, Tensor]

    @property
    def current(self) -> Candidates:
        """The candidates of the reference frames alone."""
        one = slice(self.reference, self.reference + 1)
        return replace(
            self,
            features=self.features[one],
            boxes=self.boxes[:, one],
            scores=self.scores[:, one],
            is_valid=self.is_valid[:, one],
            reference=0,
        )

    def best(self, count: int) -> Candidates:
        """Return the first ``count`` candidates of each frame."""
        return replace(
            self,
            features=tuple(frame[:, :count] for frame in self.features),
            boxes=self.boxes[:, :, :count],
            scores=self.scores[:, :, :count],
            is_valid=self.is_valid[:, :, :count],
        )

    def fused(self, features: Tensor) -> Candidates:
        """Return the candidates of the reference frames with new features ``[B, N, C, s, s]``."""
        return replace(self.current, features=(features,))

    def seen_by(self, stage: str) -> Candidates:
        """Return the same candidates with the extras of one fusion alone, under its own names."""
        return replace(self, extras=of_stage(stage, self.extras))


@dataclass(frozen=True)
class Memory:
    """What ``B`` videos have left behind beyond their windows: a value that a step renews.

    Args:
        states: The state of each stage, by its name.
    """

    states: Mapping[str, State]


for _value in (FeatureMaps, EncodedFrames, Selection, WindowBatch, Memory):
    torch.export.register_dataclass(_value)  # so that a step is exported with its memory
