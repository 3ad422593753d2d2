"""The stages of a detector: what each gets and gives, and base classes with the defaults.

Backbone and pyramid see one frame; a map fusion joins the maps of a window; a head finds objects,
and may hold candidate fusions. Shape letters as in ``encodings``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from vodet.encodings import (
    Candidates,
    CandidateSpec,
    EncodedFrames,
    FeatureMaps,
    FeatureSpec,
    State,
    WindowBatch,
)
from vodet.structures import Detections, Size, Target

Targets = Sequence[Sequence[Target | None]]
"""Objects of all frames of ``B`` windows, ``[B][T]``; None where they are not known."""


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


class Stage(nn.Module):
    """A part of a detector that joins frames, and may remember something of a video.

    What it remembers is its state, a value: it gets the state of each video and returns the next
    one, and keeps nothing itself. The defaults are those of a stage without a memory.

    Attributes:
        remembers: Whether a prediction depends on what earlier ones have left in the state. If
            not, the frames of a video may be predicted in any order and all at once.
        needs_pixels: Whether `encode` looks at the frames themselves.
    """

    remembers: bool = False
    needs_pixels: bool = False

    def encode(
        self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps
    ) -> Mapping[str, Tensor]:
        """Do the work that depends on one frame alone; done once for a frame, kept with it.

        Args:
            pixels: Frames ``[F, 3, H, W]`` uint8 RGB, black beyond the picture; None where only the
                maps are known, after a map fusion.
            sizes: ``(height, width)`` of the pictures, ``[F, 2]``.
            maps: Maps ``[F, C, h, w]`` of each level.

        Returns:
            Named tensors ``[F, ...]`` of shapes that do not depend on the content. The stage finds
            them again in the ``extras`` of what it is called with.
        """
        return {}

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        """Return the state of videos of which nothing has been seen.

        Args:
            videos: Number of videos, ``B``.
            frames: Frames of these sizes; their number and content do not matter.
        """
        return {}

    def recall(
        self, state: State, history: Sequence[Any], targets: Sequence[Targets], now: Targets
    ) -> State:
        """Return the state with which a clip is trained: by default, that after its history.

        Args:
            state: The state of videos that begin.
            history: What the stage would be called with for each earlier or other window that the
                clips bring along, in order.
            targets: Objects of the frames of each of these windows.
            now: Objects of the frames of the clips' own windows.
        """
        for inputs in history if self.remembers else ():
            _, state = self(inputs, state)
        return state


class MapFusion(Stage):
    """Feature maps of windows to feature maps of their reference frames, of the same levels.

    Where maps and the place of the reference frame are all that is needed, a plain ``nn.Module``
    with ``forward(window: FeatureMaps, reference: int) -> FeatureMaps`` is a map fusion too.

    Attributes:
        changes_maps: Whether the maps of the reference frames differ afterwards.
    """

    changes_maps: bool = True

    def forward(self, windows: WindowBatch, state: State) -> tuple[FeatureMaps, State]:
        """Return maps ``[B, C, h, w]`` of the reference frames, and the state after them."""
        raise NotImplementedError

    def fuse(
        self,
        windows: WindowBatch,
        state: State,
        encode: Callable[[FeatureMaps, Tensor], EncodedFrames],
    ) -> tuple[WindowBatch, State]:
        """Return the windows with fused reference frames, and the state after them.

        Args:
            windows: Windows of encoded frames, with the extras of all stages.
            state: The state of each window's video.
            encode: Encodes maps and sizes of single frames for the stages that follow.
        """
        maps, state = self(windows.seen_by("fusion"), state)
        return windows.fused(encode(maps, windows.sizes)), state


class PlainMapFusion(MapFusion):
    """A plain module as a map fusion.

    Args:
        net: A module with ``forward(window: FeatureMaps, reference: int) -> FeatureMaps``, which
            turns maps ``[B, T, C, h, w]`` into maps ``[B, C, h, w]``.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, windows: WindowBatch, state: State) -> tuple[FeatureMaps, State]:
        """Call the module; it has no state."""
        return self.net(windows.maps, windows.reference), state


class CandidateFusion(Stage):
    """Candidates of windows to candidates of their reference frames, with new features.

    Attributes:
        spec: Features of a candidate afterwards.
        needs_links: Whether candidate ``n`` must be the same object in all frames of a window.
        joins_frames: Whether it looks at the candidates of support frames. Where no fusion does,
            it gets those of the reference frame alone, beside what it has encoded of each frame.
        keys_per_frame: How many candidates of a frame, the best, it keeps: those that
            `encode_candidates` gets, and those of a history that it recalls; 0 is all.
    """

    spec: CandidateSpec
    needs_links: bool = False
    joins_frames: bool = True
    keys_per_frame: int = 0

    @property
    def encodes_candidates(self) -> bool:
        """Whether it does work on the candidates of each frame alone."""
        return type(self).encode_candidates is not CandidateFusion.encode_candidates

    def encode_candidates(self, candidates: Candidates) -> Mapping[str, Tensor]:
        """Do the work on candidates that depends on one frame alone, as `encode` does on maps.

        Args:
            candidates: The best ``keys_per_frame`` candidates of ``F`` single frames, ``T = 1``.
        """
        return {}

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        """Return `Candidates.fused` of the reference frames, and the state after them."""
        raise NotImplementedError

    def recall(
        self, state: State, history: Sequence[Candidates], targets: Sequence[Targets], now: Targets
    ) -> State:
        """Return the state with which a clip is trained, see `Stage.recall`.

        Targets are those of the reference frames alone: ``T`` is 1.
        """
        return super().recall(state, history, targets, now)


class Head(Stage):
    """Windows of encoded frames to the boxes of their reference frames."""

    def forward(self, windows: WindowBatch, state: State) -> tuple[dict[str, Tensor], State]:
        """Return named raw predictions, batch first, and the state after them."""
        raise NotImplementedError

    def losses(
        self, windows: WindowBatch, targets: Targets, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """Return the named, weighted loss terms, whose sum is the training loss, and the state.

        Args:
            windows: Windows of ``B`` clips.
            targets: Objects of their frames. A window whose reference frame is not annotated gives
                no loss of its own.
            state: The state of each clip.
        """
        raise NotImplementedError

    def decode(self, predictions: dict[str, Tensor]) -> list[Detections]:
        """Return the detections of each item in input pixels, best first, not clipped."""
        raise NotImplementedError


PyramidFactory = Callable[[FeatureSpec], Pyramid]
MapFusionFactory = Callable[[FeatureSpec], nn.Module]
CandidateFusionFactory = Callable[[CandidateSpec], CandidateFusion]
CandidateFusionFactories = Mapping[str, CandidateFusionFactory]


@runtime_checkable
class HeadFactory(Protocol):
    """Builds a head from the levels it will get and the number of classes."""

    def __call__(self, spec: FeatureSpec, num_classes: int) -> Head:
        """Return a head."""
