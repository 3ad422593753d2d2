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
    """Number of channels and stride of each level of a feature pyramid, finest level first.

    Neighbouring levels may have the same stride.

    Raises:
        ConfigError: If there are no levels, ``channels`` and ``strides`` differ in length, or a
            stride is smaller than the previous one.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        is_sorted = list(self.strides) == sorted(self.strides)
        if not self.channels or len(self.channels) != len(self.strides) or not is_sorted:
            msg = (
                "A feature pyramid needs at least one level, one entry per level in channels and "
                "in strides, and strides that do not decrease from level to level; found "
                f"channels={self.channels}, strides={self.strides}."
            )
            raise ConfigError(msg)


@dataclass(frozen=True)
class FeatureMaps:
    """Feature maps of frames, one tensor per level, finest level first.

    For ``N`` single frames of ``H x W`` pixels, a level is ``[N, C, H / stride, W / stride]``; for
    ``B`` windows of ``T`` frames, it is ``[B, T, C, H / stride, W / stride]``.
    """

    levels: tuple[Tensor, ...]

    def map(self, function: Callable[[Tensor], Tensor]) -> FeatureMaps:
        """Return new feature maps, with ``function`` applied to each level."""
        return FeatureMaps(tuple(function(level) for level in self.levels))

    def __len__(self) -> int:
        return len(self.levels[0])

    def __getitem__(self, index: Any) -> FeatureMaps:
        """Return feature maps with ``level[index]`` for every level."""
        return self.map(lambda level: level[index])


State = Mapping[str, Tensor]
"""State of one stage for ``B`` videos: named tensors ``[B, ...]`` of fixed shapes.

A stage takes its state and returns a new one. The tensors of a state are never modified in place.
"""


def prefixed(stage: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prefix tensor names with the name of their stage: ``logits`` becomes ``head.logits``."""
    return {f"{stage}.{name}": tensor for name, tensor in tensors.items()}


def of_stage(stage: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``<stage>.``, named without this prefix."""
    start = f"{stage}."
    return {n.removeprefix(start): tensor for n, tensor in tensors.items() if n.startswith(start)}


@dataclass(frozen=True)
class EncodedFrames:
    """Everything that the stages of a detector computed from each of ``F`` frames separately.

    Args:
        maps: Feature maps ``[F, C, h, w]`` of each level.
        sizes: ``(height, width)`` of each frame without its padding at the right and bottom,
            ``[F, 2]`` int64.
        extras: Further tensors ``[F, ...]`` that the stages computed from each frame. Their names
            begin with the name of the stage, such as ``head.logits``.
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
        """Return new encoded frames, with ``function`` applied to each tensor."""
        extras = {name: function(extra) for name, extra in self.extras.items()}
        return EncodedFrames(self.maps.map(function), function(self.sizes), extras)

    def seen_by(self, stage: str) -> EncodedFrames:
        """Return the frames with the extras of one stage only, without their prefix."""
        return replace(self, extras=of_stage(stage, self.extras))


@dataclass(frozen=True)
class Selection:
    """One encoded frame for each of ``B`` windows, chosen by index.

    The tensors of the chosen frames are copied only when they are read.

    Args:
        frames: The frames to choose from.
        rows: Index in ``frames`` of the frame chosen for each window, ``[B]`` int64.
    """

    frames: EncodedFrames
    rows: Tensor

    @property
    def maps(self) -> FeatureMaps:
        """Feature maps of the chosen frames, ``[B, C, h, w]`` per level."""
        return self.frames.maps[self.rows]

    @property
    def sizes(self) -> Tensor:
        """``(height, width)`` of each chosen frame without its padding, ``[B, 2]``."""
        return self.frames.sizes[self.rows]

    def extra(self, name: str) -> Tensor:
        """Return ``frames.extras[name]`` of the chosen frames, ``[B, ...]``."""
        return self.frames.extras[name][self.rows]

    @staticmethod
    def all(frames: EncodedFrames) -> Selection:
        """Return a selection of all frames, each once and in order."""
        return Selection(frames, torch.arange(len(frames), device=frames.sizes.device))


@dataclass(frozen=True)
class WindowBatch:
    """Windows of encoded frames, one for each reference frame to predict.

    Args:
        frames: The frames of all windows; a frame that several windows contain is stored once.
        index: Index in ``frames`` of each frame of each window, ``[B, T]`` int64.
        reference: Position of the reference frame in each window.
        current: The reference frames: before a map fusion, frames of ``frames``; after a map
            fusion, frames with fused maps.
    """

    frames: EncodedFrames
    index: Tensor
    reference: int
    current: Selection

    @staticmethod
    def of(frames: EncodedFrames, index: Tensor, reference: int) -> WindowBatch:
        """Return windows before a map fusion, so ``current`` is chosen from ``frames``.

        Args:
            frames: The frames of all windows.
            index: Index in ``frames`` of each frame of each window, ``[B, T]`` int64.
            reference: Position of the reference frame in each window.
        """
        return WindowBatch(frames, index, reference, Selection(frames, index[:, reference]))

    @staticmethod
    def of_clips(frames: EncodedFrames, length: int, reference: int) -> WindowBatch:
        """Divide ``frames`` into consecutive clips and return one window per clip.

        Args:
            frames: The frames of all clips, clip by clip.
            length: Number of frames of each clip.
            reference: Position of the reference frame in each clip.
        """
        index = torch.arange(len(frames), device=frames.sizes.device).view(-1, length)
        return WindowBatch.of(frames, index, reference)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def sizes(self) -> Tensor:
        """``(height, width)`` of each reference frame without its padding, ``[B, 2]``."""
        return self.current.sizes

    @property
    def maps(self) -> FeatureMaps:
        """Maps of all frames of the windows, without fusion, ``[B, T, C, h, w]`` per level."""
        shape = tuple(self.index.shape)
        rows = self.index.flatten()
        return self.frames.maps.map(
            lambda level: level.index_select(0, rows).unflatten(0, shape)  # type: ignore[no-untyped-call]  # untyped in torch
        )

    @property
    def reference_maps(self) -> FeatureMaps:
        """Maps of the reference frames, ``[B, C, h, w]`` per level; fused after a map fusion."""
        return self.current.maps

    def extra(self, name: str) -> Tensor:
        """Return ``frames.extras[name]`` of all frames of the windows, ``[B, T, ...]``.

        The extras were computed before the map fusion.
        """
        return self.frames.extras[name][self.index]

    @property
    def places(self) -> list[Selection]:
        """For each of the ``T`` positions of a window, the frames of all windows at this position.

        At the position of the reference frame, they are ``current``.
        """
        places = [Selection(self.frames, rows) for rows in self.index.unbind(dim=1)]
        places[self.reference] = self.current
        return places

    def fused(self, references: EncodedFrames) -> WindowBatch:
        """Return the windows with ``references``, ``B`` fused frames, as their reference frames."""
        return replace(self, current=Selection.all(references))

    def seen_by(self, stage: str) -> WindowBatch:
        """Return the windows with the extras of one stage only, without their prefix."""
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
        branches: 2 if the first half of the channels holds features for classes and the second half
            features for boxes and objectness, as in a decoupled one-stage head; otherwise 1.
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
        """Number of features of a candidate in each branch."""
        return self.width // self.branches

    def split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return class features and box features, each ``[B, N, branch_width]``.

        With a single branch, both are the same tensor.

        Args:
            features: Features of candidates, ``[B, N, C, s, s]``.
        """
        branches = features.flatten(2).chunk(self.branches, dim=2)
        return branches[0], branches[-1]


@dataclass(frozen=True)
class Candidates:
    """Candidate objects in ``B`` windows with their features: proposals, cells or queries.

    Every frame has ``N`` candidates, highest score first. If a head finds fewer, the rest is
    padding, for which ``is_valid`` is False.

    Args:
        features: The candidates' features: for each of the ``T`` frames, ``[B, N, C, s, s]``.
        boxes: The candidates' boxes, ``[B, T, N, 4]``.
        scores: The candidates' scores as logits, ``[B, T, N]``.
        is_valid: Whether each candidate is one that the head found, ``[B, T, N]`` bool.
        sizes: ``(height, width)`` of each reference frame without its padding, ``[B, 2]``.
        reference: Position of the reference frame among the ``T`` frames.
        linked: Whether candidate ``n`` is the same object in all frames.
        extras: Tensors that a candidate fusion encoded from the candidates of each frame,
            ``[B, T', ...]``. ``T'`` is the number of frames of the window, even where ``T`` is 1
            because the other fields describe only the reference frame.
        confidences: Class score and objectness of each candidate, from 0 to 1, ``[B, T, N, 2]``.
            None if the head predicts a single score, which then serves as both.
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
        """Class score and objectness of each candidate, from 0 to 1, ``[B, T, N, 2]``.

        Without ``confidences``, both are the sigmoid of ``scores``.
        """
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
        """Return the ``count`` candidates of each frame with the highest scores."""
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
        """Return the candidates of the reference frames, with ``features`` as their new features.

        Args:
            features: ``[B, N, C, s, s]``.
        """
        return replace(self.current, features=(features,))


@dataclass(frozen=True)
class Memory:
    """The states of all stages for ``B`` videos.

    `VideoDetector.step` takes the memory and returns a new memory, to use for the next frames.

    Args:
        states: The state of each stage, by stage name.
    """

    states: Mapping[str, State]


for _value in (FeatureMaps, EncodedFrames, Selection, WindowBatch, Memory):
    torch.export.register_dataclass(_value)  # allows torch.export of a step with its memory
