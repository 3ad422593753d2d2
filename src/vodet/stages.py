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
from vodet.structures import Detections, Size, Target, without_padding

ReferenceTargets = Sequence[Target | None]
"""Annotated objects of the reference frames of ``B`` windows; None for unannotated frames."""

Targets = Sequence[ReferenceTargets]
"""Annotated objects of all frames of ``B`` windows, ``[B][T]``; None for unannotated frames."""


@runtime_checkable
class FrameResize(Protocol):
    """Resizes frames to the evaluation size."""

    def target_size(self, original_size: Size) -> Size:
        """Return the size ``(height, width)`` of the picture after resizing."""

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Resize a frame ``[H, W, 3]`` uint8 to ``target_size((H, W))``."""

    def scaled(self, factor: float) -> FrameResize:
        """Return a `FrameResize` whose target sizes are ``factor`` times as large."""


@runtime_checkable
class Backbone(Protocol):
    """Computes feature maps of single frames."""

    spec: FeatureSpec
    size_divisor: int

    def compile(self) -> None:
        """Compile the backbone with ``torch.compile``; every ``nn.Module`` has this method."""

    def __call__(self, frames: Tensor) -> FeatureMaps:
        """Return the feature maps of uint8 RGB frames ``[N, 3, H, W]``.

        ``H`` and ``W`` must be multiples of ``size_divisor``.
        """


@runtime_checkable
class Pyramid(Protocol):
    """Converts the feature maps of single frames to other levels or numbers of channels."""

    spec: FeatureSpec

    def __call__(self, maps: FeatureMaps) -> FeatureMaps:
        """Convert maps ``[N, C, h, w]`` to maps with the channels and strides of ``spec``."""


class Stage(nn.Module):
    """Base class of map fusions, candidate fusions and heads.

    A stage may have a state for each video. It takes the state as an argument and returns the new
    state; the module itself stores nothing about a video. By default the state is empty.

    Attributes:
        remembers: Whether the prediction for a frame depends on the state that earlier frames left.
            If not, the frames of a video can be predicted in any order and in one batch.
    """

    remembers: bool = False

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        """Return the initial state, before the first frame of a video.

        Args:
            videos: Number of videos, ``B``.
            frames: Encoded frames of the same size as the frames of the videos. Only their shapes
                and their device are used.
        """
        return {}


class MapFusion(Stage):
    """Base class of fusions that turn the feature maps of a window into maps of one frame.

    The fused maps belong to the reference frame and have the same levels as the encoded maps.

    A fusion that needs only the maps and the position of the reference frame can be a plain
    ``nn.Module`` with ``forward(window: FeatureMaps, reference: int) -> FeatureMaps``.

    Attributes:
        changes_maps: Whether the fusion changes the maps of the reference frames.
    """

    changes_maps: bool = True

    def encode(self, pixels: Tensor, sizes: Tensor, maps: FeatureMaps) -> Mapping[str, Tensor]:
        """Compute what depends on a single frame; called once for each frame.

        Args:
            pixels: Frames ``[F, 3, H, W]`` uint8 RGB, black outside the picture.
            sizes: ``(height, width)`` of each frame without its padding, ``[F, 2]``.
            maps: Maps ``[F, C, h, w]`` of each level.

        Returns:
            Named tensors ``[F, ...]``, whose shapes must not depend on what the frames show.
            `forward` finds them in ``windows.frames.extras``.
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
            encode: Function that encodes the reference frames for the later stages, given their
                fused maps and the sizes of their pictures.
        """
        maps, state = self(windows.seen_by("fusion"), state)
        return windows.fused(encode(maps, windows.sizes)), state


class PlainMapFusion(MapFusion):
    """A map fusion that calls a plain ``nn.Module`` and has no state.

    Args:
        net: A module with ``forward(window: FeatureMaps, reference: int) -> FeatureMaps``, which
            fuses maps ``[B, T, C, h, w]`` into maps ``[B, C, h, w]``.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, windows: WindowBatch, state: State) -> tuple[FeatureMaps, State]:
        """Return the maps that the module fuses, and the unchanged state."""
        return self.net(windows.maps, windows.reference), state


class CandidateFusion(Stage):
    """Base class of fusions that compute new features for the reference frame's candidates.

    Attributes:
        spec: Shape of a candidate's features after the fusion.
        needs_links: Whether candidate ``n`` must be the same object in all frames of a window.
        joins_frames: Whether `forward` uses the candidates of support frames. If no fusion of a
            head does, `forward` gets only the candidates of the reference frame, and as their
            ``extras`` the tensors that `encode_candidates` returned for all frames of the window.
        keys_per_frame: `encode_candidates` and `recall` get this number of candidates per frame,
            with the highest scores; 0 means all.
    """

    spec: CandidateSpec
    needs_links: bool = False
    joins_frames: bool = True
    keys_per_frame: int = 0

    @property
    def encodes_candidates(self) -> bool:
        """Whether the class implements `encode_candidates`."""
        return type(self).encode_candidates is not CandidateFusion.encode_candidates

    def encode_candidates(self, candidates: Candidates) -> Mapping[str, Tensor]:
        """Compute what depends on the candidates of a single frame; called once for each frame.

        Args:
            candidates: The best ``keys_per_frame`` candidates of ``F`` single frames, ``T = 1``.

        Returns:
            Named tensors ``[F, ...]``, whose shapes must not depend on what the frames show.
            `forward` finds them in ``candidates.extras``, as ``[B, T, ...]``.
        """
        return {}

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        """Return the reference frames' candidates with fused features, and the new state.

        An implementation returns ``candidates.fused(features)``.
        """
        raise NotImplementedError

    def recall(
        self,
        state: State,
        history: Sequence[Candidates],
        targets: Sequence[ReferenceTargets],
        now: ReferenceTargets,
    ) -> State:
        """Return the state that training clips start with, computed from their history windows.

        By default, it is the state after `forward` has processed the history windows in order.

        Args:
            state: The initial state, from `begin`.
            history: For each history window, its candidates in all ``B`` clips.
            targets: For each history window, the objects of its reference frame in all clips.
            now: Objects of the reference frames of the clips themselves.
        """
        for candidates in history if self.remembers else ():
            _, state = self(candidates, state)
        return state


class Head(Stage):
    """Base class of heads, which predict the objects of reference frames.

    Attributes:
        needs_pixels: Whether `encode` uses the pixels of the frames; if so, the detector can have
            no map fusion.
        uses_maps: Whether the head uses feature maps. A head that does not is a complete detector
            and needs the backbone `NoBackbone`.
        uses_support: Whether the head uses the tensors that `encode` returned for support frames.
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
        """Constructor arguments that replace the files and pretrained models named in the config.

        A checkpoint stores these arguments, so that loading it opens no file and no connection
        that its config names.
        """
        return {}

    def encode(
        self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps
    ) -> Mapping[str, Tensor]:
        """Compute what depends on a single frame; called once for each frame.

        After a map fusion, it is called again for the fused maps of the reference frames.

        Args:
            pixels: Frames ``[F, 3, H, W]`` uint8 RGB, black outside the picture; None if ``maps``
                are fused.
            sizes: ``(height, width)`` of each frame without its padding, ``[F, 2]``.
            maps: Maps ``[F, C, h, w]`` of each level.

        Returns:
            Named tensors ``[F, ...]``, whose shapes must not depend on what the frames show.
            `forward` finds them in the extras of its windows.
        """
        return {}

    def detect(
        self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps
    ) -> Mapping[str, Tensor]:
        """Do the part of `encode` that depends on the weights of `base_parts` only.

        The arguments are the arguments of `encode`, and `complete` does the rest. In training mode,
        the result contains the tensors that the losses need while `base_parts` are frozen.
        """
        raise NotImplementedError

    def complete(self, frames: EncodedFrames) -> Mapping[str, Tensor]:
        """Return what `encode` returns, from frames with the result of `detect` as extras."""
        raise NotImplementedError

    def detect_settings(self) -> Mapping[str, Any]:
        """Return all settings, besides the weights, that the result of `detect` depends on."""
        return {}

    def forward(self, windows: WindowBatch, state: State) -> tuple[dict[str, Tensor], State]:
        """Return the raw outputs for the reference frames, and the new state.

        The raw outputs are named tensors ``[B, ...]``, from which `decode` makes detections.
        """
        raise NotImplementedError

    def losses(
        self, windows: WindowBatch, targets: Targets, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """Return the named, weighted loss terms, whose sum is the training loss, and the new state.

        Args:
            windows: Windows of ``B`` clips.
            targets: Objects of all frames of the windows, ``[B][T]``; None for a frame that is not
                annotated. A reference frame with None contributes no loss.
            state: The state of each clip's video.
        """
        raise NotImplementedError

    def recall(
        self, state: State, history: Sequence[WindowBatch], targets: Sequence[Targets], now: Targets
    ) -> State:
        """Return the state that training clips start with, computed from their history windows.

        By default, it is the state after `forward` has processed the history windows in order.

        Args:
            state: The initial state, from `begin`.
            history: For each history window, its encoded frames in all ``B`` clips.
            targets: For each history window, the objects of its frames in all clips.
            now: Objects of the frames of the window around each clip's reference frame.
        """
        for windows in history if self.remembers else ():
            _, state = self(windows, state)
        return state

    def best(self, outputs: dict[str, Tensor]) -> Detections:
        """Turn the raw outputs of `forward` into a fixed number of detections per reference frame.

        Returns:
            ``boxes`` ``[B, D, 4]``, ``scores`` ``[B, D]`` and ``labels`` ``[B, D]``, with the
            highest score first. Rows with a score of 0 are padding. Boxes are in input pixels and
            may extend beyond the picture.
        """
        raise NotImplementedError

    def decode(self, outputs: dict[str, Tensor]) -> list[Detections]:
        """Turn the raw outputs of `forward` into the detections of each reference frame.

        They are the detections of `best`, without the padding.
        """
        return without_padding(self.best(outputs))


PyramidFactory = Callable[[FeatureSpec], Pyramid]
MapFusionFactory = Callable[[FeatureSpec], nn.Module]
CandidateFusionFactory = Callable[[CandidateSpec], CandidateFusion]
CandidateFusionFactories = Mapping[str, CandidateFusionFactory]


@runtime_checkable
class HeadFactory(Protocol):
    """Builds a head from the levels of its input maps and the number of classes."""

    def __call__(self, spec: FeatureSpec, num_classes: int) -> Head:
        """Return a head."""
