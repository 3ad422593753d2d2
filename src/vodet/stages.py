"""What the stages of a detector ask of each other: anything that answers so fits in.

Shape letters as in ``structures``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from vodet.encodings import (
    FeatureMaps,
    FeatureSpec,
    KeyFrame,
    RoIs,
    RoISpec,
    TemporalMemory,
    Windows,
)
from vodet.structures import Detections, Size, Target


@runtime_checkable
class FrameResize(Protocol):
    """How a frame is brought to the size at which it is evaluated."""

    def target_size(self, original_size: Size) -> Size:
        """Return the size of the picture after resizing."""

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Resize ``[H, W, 3]`` uint8 to the target size of its own size."""

    def scaled(self, factor: float) -> FrameResize:
        """Return a resize to sizes that are larger by a positive factor."""


@runtime_checkable
class Backbone(Protocol):
    """Frames to feature maps, each frame by itself."""

    spec: FeatureSpec
    size_divisor: int

    def compile(self) -> None:
        """Compile it with ``torch.compile``, as every ``nn.Module`` can be."""

    def __call__(self, frames: Tensor) -> FeatureMaps:
        """Encode uint8 RGB ``[N, 3, H, W]``, sides divisible by ``size_divisor``."""


@runtime_checkable
class Pyramid(Protocol):
    """Feature maps to feature maps of other levels or channels, each frame by itself."""

    spec: FeatureSpec

    def __call__(self, maps: FeatureMaps) -> FeatureMaps:
        """Turn maps ``[N, C, h, w]`` into maps of ``spec``."""


@runtime_checkable
class MapFusion(Protocol):
    """Feature maps of a window to feature maps of its reference frame, same levels and channels."""

    def __call__(self, window: FeatureMaps, reference: int) -> FeatureMaps:
        """Fuse maps ``[B, T, C, h, w]`` into those of frame ``reference``, ``[B, C, h, w]``."""


@runtime_checkable
class RoIFusion(Protocol):
    """RoI features of a window, and of the memory, to RoI features of its reference frame.

    Args:
        spec: Features of a RoI afterwards.
        joins_frames: Whether it looks at the features of the support frames: where no fusion does,
            they are not pooled.
    """

    spec: RoISpec
    joins_frames: bool

    def __call__(
        self, rois: RoIs, memories: Sequence[TemporalMemory]
    ) -> tuple[RoIs, list[TemporalMemory]]:
        """Fuse the features of all frames into one, ``[B, N, C, s, s]`` of ``spec``.

        Returns:
            The RoIs of the reference frames (`RoIs.fused`), and the memories as they shall be for
            the next answers; a fusion that remembers nothing returns them as they came.
        """


@runtime_checkable
class LongTermFusion(RoIFusion, Protocol):
    """A RoI fusion that looks at key frames: of the memory, or of the window itself.

    Args:
        keys: ``memory``: earlier key frames of the video (in training, of windows drawn for it);
            ``window``: the frames of the window.
        keys_per_frame: How many RoIs are kept of a key frame, the best.
        propagate: Whether boxes of the memory follow the objects; ``none`` leaves them.
    """

    keys: str
    keys_per_frame: int
    propagate: str

    def key_frames(self, rois: RoIs) -> list[KeyFrame]:
        """Return what is remembered of each window, from what this fusion would fuse."""


@runtime_checkable
class Head(Protocol):
    """Windows of encoded frames to the boxes of their reference frames.

    Args:
        remembers: Whether an answer depends on what earlier answers have left in the memory.
    """

    @property
    def remembers(self) -> bool:
        """See above."""

    def encode(self, maps: FeatureMaps) -> dict[str, Tensor]:
        """Return what the head finds in each frame alone, from maps ``[F, C, h, w]``."""

    def __call__(
        self, windows: Windows, memories: Sequence[TemporalMemory]
    ) -> tuple[dict[str, Tensor], list[TemporalMemory]]:
        """Return named raw predictions, batch first, and the memories after these answers."""

    def losses(
        self,
        windows: Windows,
        targets: Sequence[Sequence[Target | None]],
        memory_windows: Sequence[tuple[Windows, Sequence[Sequence[Target | None]]]],
    ) -> dict[str, Tensor]:
        """Return the named, weighted loss terms; their sum is the training loss.

        Args:
            windows: Windows of ``B`` clips.
            targets: Objects of their frames, ``[B][T]``; None where they are not known.
            memory_windows: Further windows of the same videos with their targets.
        """

    def decode(self, predictions: dict[str, Tensor]) -> list[Detections]:
        """Return the detections of each item in input pixels, best first, not clipped."""


PyramidFactory = Callable[[FeatureSpec], Pyramid]
MapFusionFactory = Callable[[FeatureSpec], MapFusion]
RoIFusionFactory = Callable[[RoISpec], RoIFusion]
RoIFusionFactories = Mapping[str, RoIFusionFactory]


@runtime_checkable
class HeadFactory(Protocol):
    """Builds a head from the levels it will get and the number of classes."""

    def __call__(self, spec: FeatureSpec, num_classes: int) -> Head:
        """Return a head, an ``nn.Module``."""
