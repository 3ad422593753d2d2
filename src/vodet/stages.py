"""The stages of a detector: their interfaces, and base classes with default behaviour.

The backbone and the pyramid process single frames. A map fusion combines the feature maps of a
window. A head detects objects and may contain candidate fusions. Shape letters are as in
``encodings``.
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

ReferenceTargets = Sequence[Target | None]
"""Objects of the reference frames of ``B`` windows; None for frames without annotations."""

Targets = Sequence[ReferenceTargets]
"""Objects of all frames of ``B`` windows, ``[B][T]``; None for frames without annotations."""


@runtime_checkable
class FrameResize(Protocol):
    """Resizes frames to the evaluation size."""

    def target_size(self, original_size: Size) -> Size:
        """Return the size ``(height, width)`` of the picture after resizing."""

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Resize a frame ``[H, W, 3]`` uint8 to ``target_size((H, W))``."""

    def scaled(self, factor: float) -> FrameResize:
        """Return a resize that multiplies the target sizes by a positive factor."""


@runtime_checkable
class Backbone(Protocol):
    """Computes feature maps of single frames."""

    spec: FeatureSpec
    size_divisor: int

    def compile(self) -> None:
        """Compile the backbone with ``torch.compile``; every ``nn.Module`` has this method."""

    def __call__(self, frames: Tensor) -> FeatureMaps:
        """Encode uint8 RGB ``[N, 3, H, W]`` with sides divisible by ``size_divisor``."""


@runtime_checkable
class Pyramid(Protocol):
    """Converts the feature maps of single frames to other levels or channels."""

    spec: FeatureSpec

    def __call__(self, maps: FeatureMaps) -> FeatureMaps:
        """Convert maps ``[N, C, h, w]`` into maps that match ``spec``."""


class Stage(nn.Module):
    """A part of a detector that combines frames and may have a state per video.

    It receives the state of each video and returns the new state; the module itself stores
    no state. By default the state is empty.

    Attributes:
        remembers: Whether predictions depend on the state from earlier predictions. If not, the
            frames of a video can be predicted in any order and in one batch.
    """

    remembers: bool = False

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        """Return the initial state, before the first frame of a video.

        Args:
            videos: Number of videos, ``B``.
            frames: Encoded frames of the size of the videos; their content is not used.
        """
        return {}


class MapFusion(Stage):
    """Fuses the feature maps of windows into maps of their reference frames, with the same levels.

    A fusion that needs only the maps and the position of the reference frame can be a plain
    ``nn.Module`` with ``forward(window: FeatureMaps, reference: int) -> FeatureMaps``.

    Attributes:
        changes_maps: Whether the fusion changes the maps of the reference frames.
    """

    changes_maps: bool = True

    def encode(self, pixels: Tensor, sizes: Tensor, maps: FeatureMaps) -> Mapping[str, Tensor]:
        """Do the work that depends on a single frame; it is done once for each frame.

        Args:
            pixels: Frames ``[F, 3, H, W]`` uint8 RGB, black beyond the picture.
            sizes: ``(height, width)`` of the pictures, ``[F, 2]``.
            maps: Maps ``[F, C, h, w]`` of each level.

        Returns:
            Named tensors ``[F, ...]`` whose shapes do not depend on the content. The stage gets
            them back as the ``extras`` of its windows.
        """
        return {}

    def forward(self, windows: WindowBatch, state: State) -> tuple[FeatureMaps, State]:
        """Return fused maps ``[B, C, h, w]`` of the reference frames, and the new state."""
        raise NotImplementedError

    def fuse(
        self,
        windows: WindowBatch,
        state: State,
        encode: Callable[[FeatureMaps, Tensor], EncodedFrames],
    ) -> tuple[WindowBatch, State]:
        """Return the windows with fused reference frames, and the new state.

        Args:
            windows: Windows of encoded frames, with the extras of all stages.
            state: The state of each window's video.
            encode: Encodes the reference frames for the later stages, given their fused maps and
                the sizes of their pictures.
        """
        maps, state = self(windows.seen_by("fusion"), state)
        return windows.fused(encode(maps, windows.sizes)), state


class PlainMapFusion(MapFusion):
    """Wraps a plain module as a map fusion.

    Args:
        net: A module with ``forward(window: FeatureMaps, reference: int) -> FeatureMaps``, which
            fuses maps ``[B, T, C, h, w]`` into maps ``[B, C, h, w]``.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, windows: WindowBatch, state: State) -> tuple[FeatureMaps, State]:
        """Call the module; the state is unchanged."""
        return self.net(windows.maps, windows.reference), state


class CandidateFusion(Stage):
    """Fuses the candidates of windows into new features of the reference frames' candidates.

    Attributes:
        spec: Shape of a candidate's features after the fusion.
        needs_links: Whether candidate ``n`` must be the same object in all frames of a window.
        joins_frames: Whether the fusion uses the candidates of support frames. If no fusion of a
            head does, the fusions receive only the candidates of the reference frame and what they
            encoded from each frame.
        keys_per_frame: Number of best candidates per frame that `encode_candidates` and `recall`
            receive; 0 means all.
    """

    spec: CandidateSpec
    needs_links: bool = False
    joins_frames: bool = True
    keys_per_frame: int = 0

    @property
    def encodes_candidates(self) -> bool:
        """Whether the fusion encodes the candidates of each frame separately."""
        return type(self).encode_candidates is not CandidateFusion.encode_candidates

    def encode_candidates(self, candidates: Candidates) -> Mapping[str, Tensor]:
        """Do the work that depends on the candidates of a single frame, once for each frame.

        Args:
            candidates: The best ``keys_per_frame`` candidates of ``F`` single frames, ``T = 1``.

        Returns:
            Named tensors ``[F, ...]`` whose shapes do not depend on the content. The fusion gets
            them back as ``candidates.extras``, ``[B, T, ...]``.
        """
        return {}

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        """Return `Candidates.fused` of the reference frames, and the new state."""
        raise NotImplementedError

    def recall(
        self,
        state: State,
        history: Sequence[Candidates],
        targets: Sequence[ReferenceTargets],
        now: ReferenceTargets,
    ) -> State:
        """Return the state to train a clip with: by default, after stepping through its history.

        Args:
            state: The initial state, from `begin`.
            history: Candidates of the history windows of the clips, in order.
            targets: Objects of the reference frames of these windows.
            now: Objects of the clips' own reference frames.
        """
        for candidates in history if self.remembers else ():
            _, state = self(candidates, state)
        return state


class Head(Stage):
    """Predicts the boxes of reference frames from windows of encoded frames.

    Attributes:
        needs_pixels: Whether `encode` uses the pixels of the frames; if so, no map fusion can come
            before the head.
        uses_maps: Whether the head uses feature maps. A head without them is a whole detector, and
            needs the backbone `NoBackbone`.
        uses_support: Whether the head uses what it encoded from support frames.
        base_parts: Names of the parts of the head that detect objects in single frames. While they
            are frozen, the result of `detect` can be cached; empty for a head without such parts.
        cached_levels: Number of the finest levels whose maps are read after `detect`. Of the other
            levels, only the shapes are needed.
    """

    needs_pixels: bool = False
    uses_maps: bool = True
    uses_support: bool = False
    base_parts: tuple[str, ...] = ()
    cached_levels: int = 0

    @property
    def settings(self) -> Mapping[str, Any]:
        """Arguments that rebuild the head without the files or models that its config names.

        A checkpoint stores them, since loading it opens nothing that its config names.
        """
        return {}

    def encode(
        self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps
    ) -> Mapping[str, Tensor]:
        """Do the work that depends on a single frame; it is done once for each frame.

        After a map fusion, it is called again for the fused maps of the reference frames.

        Args:
            pixels: Frames ``[F, 3, H, W]`` uint8 RGB, black beyond the picture; None for fused
                maps.
            sizes: ``(height, width)`` of the pictures, ``[F, 2]``.
            maps: Maps ``[F, C, h, w]`` of each level.

        Returns:
            Named tensors ``[F, ...]`` whose shapes do not depend on the content.
        """
        return {}

    def detect(
        self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps
    ) -> Mapping[str, Tensor]:
        """Do the part of `encode` that needs no weights but those of `base_parts`.

        Takes the same arguments as `encode`; `complete` does the rest. In training mode, it returns
        what the losses need while `base_parts` are frozen.
        """
        raise NotImplementedError

    def complete(self, frames: EncodedFrames) -> Mapping[str, Tensor]:
        """Return what `encode` returns, from frames with the result of `detect` as extras."""
        raise NotImplementedError

    def detect_settings(self) -> Mapping[str, Any]:
        """Return all settings that the result of `detect` depends on, beside the weights."""
        return {}

    def forward(self, windows: WindowBatch, state: State) -> tuple[dict[str, Tensor], State]:
        """Return named raw outputs ``[B, ...]``, and the new state."""
        raise NotImplementedError

    def losses(
        self, windows: WindowBatch, targets: Targets, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """Return the named, weighted loss terms, whose sum is the training loss, and the new state.

        Args:
            windows: Windows of ``B`` clips.
            targets: Objects of the frames, ``[B][T]``. A window whose reference frame is not
                annotated contributes no loss for that frame.
            state: The state of each clip.
        """
        raise NotImplementedError

    def recall(
        self, state: State, history: Sequence[WindowBatch], targets: Sequence[Targets], now: Targets
    ) -> State:
        """Return the state to train a clip with: by default, after stepping through its history.

        Args:
            state: The initial state, from `begin`.
            history: The history windows of the clips, in order.
            targets: Objects of the frames of each of these windows.
            now: Objects of the frames of the clips' own windows.
        """
        for windows in history if self.remembers else ():
            _, state = self(windows, state)
        return state

    def decode(self, outputs: dict[str, Tensor]) -> list[Detections]:
        """Return the detections of each reference frame in input pixels, unclipped, best first."""
        raise NotImplementedError


PyramidFactory = Callable[[FeatureSpec], Pyramid]
MapFusionFactory = Callable[[FeatureSpec], nn.Module]
CandidateFusionFactory = Callable[[CandidateSpec], CandidateFusion]
CandidateFusionFactories = Mapping[str, CandidateFusionFactory]


@runtime_checkable
class HeadFactory(Protocol):
    """Builds a head from the levels of its input maps and the number of classes."""

    def __call__(self, spec: FeatureSpec, num_classes: int) -> Head:
        """Return a head."""
