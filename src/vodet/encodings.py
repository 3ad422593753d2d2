"""What the stages of a detector hand to each other: from single frames to what is remembered.

Shape letters: ``F`` frames, ``B`` clips, ``T`` frames of a clip, ``C H W`` channels, height and
width, ``N`` RoIs of the reference frame, ``M`` RoIs of the memory. Boxes are ``xyxy`` float32 in
pixels of the input.
"""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True)
class Encodings:
    """What is known of frames by themselves.

    Args:
        maps: Feature maps ``[F, C, h, w]`` per level.
        sizes: ``(height, width)`` of the picture in the upper left corner of each frame, ``[F, 2]``
            int64.
        extras: What the head has found in each frame alone, by name, ``[F, ...]``.
    """

    maps: FeatureMaps
    sizes: Tensor
    extras: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.sizes)

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in a fixed order."""
        return [*self.maps.levels, self.sizes, *self.extras.values()]

    def map(self, function: Callable[[Tensor], Tensor]) -> Encodings:
        """Apply ``function`` to each tensor."""
        extras = {name: function(extra) for name, extra in self.extras.items()}
        return Encodings(self.maps.map(function), function(self.sizes), extras)


@dataclass(frozen=True)
class Windows:
    """Windows of frames that are joined, one for each answer.

    Args:
        frames: The frames, each once.
        index: Which of them is at each place of each window, ``[B, T]`` int64.
        reference: Place of the reference frame in each window.
        fused: Maps of the reference frames ``[B, C, h, w]`` after a map fusion; None without one.
        is_in_order: Whether the windows are the frames one after the other, so that no map need be
            copied to make windows of them.
    """

    frames: Encodings
    index: Tensor
    reference: int
    fused: FeatureMaps | None = None
    is_in_order: bool = False

    def __len__(self) -> int:
        return len(self.index)

    @staticmethod
    def of_clips(frames: Encodings, length: int, reference: int) -> Windows:
        """Return the windows of clips of ``length`` frames that lie one after the other."""
        index = torch.arange(len(frames), device=frames.sizes.device).view(-1, length)
        return Windows(frames, index, reference, is_in_order=True)

    @property
    def references(self) -> Tensor:
        """Which frames are the reference frames, ``[B]``."""
        return self.index[:, self.reference]

    @property
    def sizes(self) -> Tensor:
        """Sizes of the pictures of the reference frames, ``[B, 2]``."""
        return self.frames.sizes[self.references]

    @property
    def maps(self) -> FeatureMaps:
        """Maps of the whole windows, ``[B, T, C, h, w]``."""
        shape = tuple(self.index.shape)
        if self.is_in_order:
            return self.frames.maps.map(lambda level: level.view(*shape, *level.shape[1:]))
        return self.frames.maps.map(lambda level: level[self.index])

    @property
    def reference_maps(self) -> FeatureMaps:
        """Maps of the reference frames, after the fusion where there is one, ``[B, C, h, w]``."""
        if self.fused is not None:
            return self.fused
        if self.is_in_order:
            return self.maps[:, self.reference]
        return self.frames.maps[self.references]


@dataclass(frozen=True)
class RoISpec:
    """What the features of a RoI look like: ``channels`` on a grid of ``resolution`` squared."""

    channels: int
    resolution: int

    @property
    def width(self) -> int:
        """Number of features of a RoI."""
        return self.channels * self.resolution**2


@dataclass(frozen=True)
class RoIs:
    """Regions of interest of windows, the same object's in each frame of a window.

    Args:
        features: Of each of the ``T`` frames, ``[B, N, C, s, s]``.
        boxes: In pixels of the input, ``[B, T, N, 4]``.
        objectness: Logits of the reference frame, ``[B, N]``.
        is_valid: ``[B, N]``; the others fill up windows with fewer RoIs.
        sizes: ``(height, width)`` of the pictures, ``[B, 2]``.
        reference: Place of the reference frame among the ``T``.
    """

    features: tuple[Tensor, ...]
    boxes: Tensor
    objectness: Tensor
    is_valid: Tensor
    sizes: Tensor
    reference: int

    def fused(self, features: Tensor) -> RoIs:
        """Return the RoIs of the reference frame alone, with features ``[B, N, C, s, s]``."""
        boxes = self.boxes[:, self.reference].unsqueeze(1)
        return replace(self, features=(features,), boxes=boxes, reference=0)


@dataclass(frozen=True)
class KeyFrame:
    """RoIs that are remembered of a frame.

    Args:
        features: ``[M, D]``.
        boxes: In pixels, ``[M, 4]``.
        projected: What the layers of an attention make of the features, ``[M, P]``, so that it is
            not computed in every answer anew; None where it has not been yet.
    """

    features: Tensor
    boxes: Tensor
    projected: Tensor | None = None

    def __getitem__(self, rows: Any) -> KeyFrame:
        """Choose some of the RoIs."""
        projected = None if self.projected is None else self.projected[rows]
        return KeyFrame(self.features[rows], self.boxes[rows], projected)


@dataclass(frozen=True)
class TemporalMemory:
    """What a video has left behind beyond the window: a value that a step takes and returns anew.

    Args:
        answered: Number of frames of the video answered so far.
        key_frames: What is remembered of some of them, oldest first; boundedly many.
    """

    answered: int = 0
    key_frames: tuple[KeyFrame, ...] = ()

    def after_answer(self) -> TemporalMemory:
        """Return the memory one answered frame later."""
        return replace(self, answered=self.answered + 1)
