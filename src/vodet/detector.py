"""The video object detector: backbone, pyramid, map fusion and head in one module."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from vodet.encodings import EncodedFrames, FeatureMaps, Memory, State, WindowBatch, prefixed
from vodet.errors import ConfigError
from vodet.features.no_backbone import NoBackbone
from vodet.freezing import find_modules, freeze
from vodet.inference.postprocess import to_original
from vodet.model_folder import Saves
from vodet.predict import Predicts
from vodet.stages import (
    Backbone,
    FrameResize,
    HeadFactory,
    MapFusion,
    MapFusionFactory,
    PlainMapFusion,
    PyramidFactory,
    Targets,
)
from vodet.structures import ClipBatch, Detections, Size, Window

FrameEncoder = Callable[[Tensor, Tensor], EncodedFrames]  # of frames and their sizes

# Control codes act on the terminal when they are printed, and surrogates cannot be printed.
_CONTROL_CODES = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class VideoDetector(Predicts, Saves, nn.Module):
    """A video object detector in two parts: per-frame encoding and temporal fusion.

    `encode` does everything that depends on a single frame; `step` does everything that combines
    frames. Neither stores anything about a video, so evaluation and streaming get the same
    detections however a video is split into calls. Training (`losses`) uses the same encoding and
    fusion, followed by the losses of the head.

    Args:
        backbone: Computes feature maps of frames.
        pyramid: Builds the per-frame stage that follows the backbone, from the channels and strides
            of the backbone's levels.
        fusion: Builds the map fusion from the channels and strides of the pyramid's levels: a
            `MapFusion`, or a plain module with ``forward(window, reference)``.
        head: Builds the head from the channels and strides of the pyramid's levels and the number
            of classes.
        window: Which frames around a reference frame are combined to predict its objects.
        class_names: Names of the labels.
        resize: Resizes frames to the evaluation size.
        frozen: Names of modules that are not trained, such as ``("backbone", "pyramid",
            "head.rpn")``. They stay in evaluation mode. If no trainable module comes before them,
            autograd does not record them either.

    Raises:
        ConfigError: If there are no classes, a class name occurs twice or contains control codes,
            ``frozen`` names a module that does not exist, the head needs pixels but follows a map
            fusion, the head needs feature maps but the backbone is `NoBackbone`, or the head uses
            no feature maps but there is another backbone.

    Attributes:
        config: The config that the detector was built from; None if it was built in Python.
        about: Training data and metrics of a loaded detector, for its model card.
    """

    config: dict[str, Any] | None = None
    about: Mapping[str, Any] = {}  # never changed, only replaced

    def __init__(
        self,
        backbone: Backbone,
        *,
        pyramid: PyramidFactory,
        fusion: MapFusionFactory,
        head: HeadFactory,
        window: Window,
        class_names: Sequence[str],
        resize: FrameResize,
        frozen: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not class_names or len(set(class_names)) != len(class_names):
            msg = (
                "A detector needs at least one class name, and each class name only once; found "
                f"{list(class_names)}."
            )
            raise ConfigError(msg)
        if unprintable := [name for name in class_names if _CONTROL_CODES.search(name)]:
            msg = (
                "Class names must not contain control characters, such as line breaks; found "
                f"{unprintable}. Rename these classes in the annotation file."
            )
            raise ConfigError(msg)
        self.window = window
        self.class_names = tuple(class_names)
        self.resize = resize
        self.backbone = backbone
        self.pyramid = pyramid(backbone.spec)
        joined = fusion(self.pyramid.spec)
        self.fusion = joined if isinstance(joined, MapFusion) else PlainMapFusion(joined)
        self.head = head(self.pyramid.spec, len(self.class_names))
        if self.head.needs_pixels and self.fusion.changes_maps:
            msg = (
                f"{type(self.head).__name__} detects on the pixels of the frames, so it cannot "
                f"follow a map fusion: set model/fusion=none; found {type(joined).__name__}."
            )
            raise ConfigError(msg)
        if self.head.uses_maps == isinstance(backbone, NoBackbone):
            needs = "a backbone with feature maps" if self.head.uses_maps else "model/backbone=none"
            msg = (
                f"{type(self.head).__name__} needs {needs}: found {type(backbone).__name__}. "
                "Choose another model/backbone or model/head."
            )
            raise ConfigError(msg)
        self.frozen = tuple(frozen)
        # Channels-last convolutions are about 10 % faster on a CPU; shapes are unchanged.
        self.to(memory_format=torch.channels_last)
        self.train(self.training)

    def train(self, mode: bool = True) -> VideoDetector:
        """Set the training mode; modules in ``frozen`` stay in evaluation mode."""
        super().train(mode)
        freeze(find_modules(self, self.frozen, "The detector"))
        return self

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def remembers(self) -> bool:
        """Whether the predictions for a frame depend on the memory of earlier frames.

        If so, the frames of a video must be predicted in order.
        """
        return self.fusion.remembers or self.head.remembers

    def encode(
        self, frames: UInt8[Tensor, "F 3 H W"], sizes: Int[Tensor, "F 2"] | None = None
    ) -> EncodedFrames:
        """Compute everything that depends on single frames: feature maps and the stages' extras.

        Args:
            frames: RGB frames of any size; they are padded with black at the right and bottom to
                multiples of the backbone's ``size_divisor``.
            sizes: ``(height, width)`` of the picture in the upper left corner of each frame; by
                default the picture is the whole frame.
        """
        if sizes is None:
            sizes = torch.tensor(frames.shape[-2:], device=frames.device).expand(len(frames), 2)
        pixels, maps = self._maps(frames)
        extras = prefixed("fusion", self.fusion.encode(self._covered(pixels, maps), sizes, maps))
        if self.head.uses_support or not self.fusion.changes_maps:
            extras |= prefixed("head", self.head.encode(pixels, sizes, maps))
        return EncodedFrames(maps, sizes, extras)

    @property
    def base_parts(self) -> tuple[str, ...]:
        """Names of the parts that detect objects in single frames; see `Head.base_parts`."""
        return ("backbone", "pyramid", *(f"head.{part}" for part in self.head.base_parts))

    def detect(self, frames: UInt8[Tensor, "F 3 H W"], sizes: Int[Tensor, "F 2"]) -> EncodedFrames:
        """Do the part of `encode` that depends on the weights of `base_parts` only.

        Without a map fusion, ``complete(detect(frames, sizes))`` replaces ``encode(frames, sizes)``
        in training while `base_parts` are frozen.
        """
        pixels, maps = self._maps(frames)
        found = self.head.detect(pixels, sizes, maps)
        return EncodedFrames(maps, sizes, prefixed("head", found))

    def complete(self, frames: EncodedFrames) -> EncodedFrames:
        """Do the part of `encode` that comes after `detect`."""
        extras = self.head.complete(frames.seen_by("head"))
        return replace(frames, extras=prefixed("head", extras))

    def _maps(self, frames: Tensor) -> tuple[Tensor, FeatureMaps]:
        """Return the frames, padded for the backbone, and their maps."""
        divisor = self.backbone.size_divisor
        bottom, right = (-side % divisor for side in frames.shape[-2:])
        pixels = F.pad(frames, (0, right, 0, bottom))
        maps = self.pyramid(self.backbone(pixels))
        return pixels, maps

    def _covered(self, pixels: Tensor, maps: FeatureMaps) -> Tensor:
        """Pad frames to the area that the maps cover, larger if the backbone pads the frames."""
        stride, cells = self.pyramid.spec.strides[0], maps.levels[0].shape[-2:]
        bottom, right = (
            stride * count - side for count, side in zip(cells, pixels.shape[-2:], strict=True)
        )
        return F.pad(pixels, (0, right, 0, bottom)) if bottom or right else pixels

    def _encode_fused(self, maps: FeatureMaps, sizes: Tensor) -> EncodedFrames:
        """Return reference frames with fused maps, and the head's extras for these maps."""
        return EncodedFrames(maps, sizes, prefixed("head", self.head.encode(None, sizes, maps)))

    def begin(self, videos: int, frames: EncodedFrames) -> Memory:
        """Return the initial memory, before the first frame of a video.

        Args:
            videos: Number of videos.
            frames: Encoded frames of the same size as the frames of the videos.
        """
        stages = {"fusion": self.fusion, "head": self.head}
        return Memory({name: stage.begin(videos, frames) for name, stage in stages.items()})

    def step(self, windows: WindowBatch, memory: Memory) -> tuple[dict[str, Tensor], Memory]:
        """Predict the objects of the reference frames of windows.

        Args:
            windows: Windows of encoded frames of ``B`` videos.
            memory: The memory of these videos: from `begin` for the first frames, then from the
                previous call.

        Returns:
            The head's raw outputs, for `decode`, and the memory to use for the next frames.
        """
        windows, fusion_state = self._fuse(windows, memory)
        outputs, head_state = self.head(windows.seen_by("head"), memory.states["head"])
        return outputs, Memory({"fusion": fusion_state, "head": head_state})

    def _fuse(self, windows: WindowBatch, memory: Memory) -> tuple[WindowBatch, State]:
        return self.fusion.fuse(windows, memory.states["fusion"], self._encode_fused)

    def decode(
        self, outputs: dict[str, Tensor], sizes: Sequence[tuple[Size, Size]]
    ) -> list[Detections]:
        """Turn raw outputs into detections, with boxes in pixels of the original images.

        Args:
            outputs: Raw outputs from `step`.
            sizes: For each reference frame, the size of the picture after resizing and the size of
                the original image, both ``(height, width)``.
        """
        return [
            to_original(found, *size)
            for found, size in zip(self.head.decode(outputs), sizes, strict=True)
        ]

    def forward(self, batch: ClipBatch) -> list[Detections]:
        """Return the detections of each clip's reference frame, in pixels of the original images.

        Each clip is treated as the start of a video, with the initial memory.
        """
        window = batch.layout.reference_window
        clips = _encode_clips(batch, [window], self.encode)
        windows = clips.windows([window])
        outputs, _ = self.step(windows, self.begin(len(windows), clips.frames))
        sizes = [(info.size, info.original_size) for info in batch.reference_infos]
        return self.decode(outputs, sizes)

    def losses(self, batch: ClipBatch, encode: FrameEncoder | None = None) -> dict[str, Tensor]:
        """Return the named loss terms of a batch of clips; their sum is the training loss.

        If the map fusion has a memory, gradients flow through the history windows of the clips into
        the fusion, the pyramid and the backbone. Otherwise the history is encoded and fused without
        gradients.

        Args:
            batch: The clips.
            encode: Encodes frames of the batch, given with their sizes; by default `encode`.

        Raises:
            ConfigError: If a stage has a memory, but the clips have a single window and no history.
        """
        layout = batch.layout
        history = layout.history if self.fusion.remembers else ()
        encode = encode or self.encode
        clips = _encode_clips(batch, [*layout.windows, *history], encode)
        memory = self._recall(clips, encode)
        terms, counts = [], []
        for windows, targets in self._trained(clips):
            fused, fusion_state = self._fuse(windows, memory)
            losses, head_state = self.head.losses(
                fused.seen_by("head"), targets, memory.states["head"]
            )
            memory = Memory({"fusion": fusion_state, "head": head_state})
            terms.append(losses)
            counts.append(sum(clip[windows.reference] is not None for clip in targets))
        shares = [count / max(sum(counts), 1) for count in counts]
        return {
            name: torch.stack([s * t[name] for s, t in zip(shares, terms, strict=True)]).sum()
            for name in terms[0]
        }

    def _trained(self, clips: _EncodedClips) -> Iterator[tuple[WindowBatch, Targets]]:
        """Yield the windows to train on, with the objects of their frames.

        If a stage has a memory, the windows of a clip are yielded one after the other, otherwise
        all at once.
        """
        windows = clips.batch.layout.windows
        for group in [[window] for window in windows] if self.remembers else [windows]:
            yield clips.windows(group), _trained_targets(clips.batch, group)

    def _recall(self, clips: _EncodedClips, encode: FrameEncoder) -> Memory:
        """Return the memory that training clips start with, computed from their histories."""
        memory = self.begin(len(clips.batch.frames), clips.frames)
        if not self.remembers:
            return memory
        batch, layout = clips.batch, clips.batch.layout
        if len(layout.windows) + len(layout.history) == 1:
            msg = (
                "A part of this detector remembers earlier frames, so its training clips need "
                "history windows, found none: set data.history.windows=2 for long-term attention, "
                "or data.history.windows=7 data.history.policy=previous for a recurrent fusion."
            )
            raise ConfigError(msg)
        states, history = dict(memory.states), []
        # Gradients stay enabled for a frozen head: otherwise it would encode as in evaluation.
        with torch.set_grad_enabled(self.fusion.remembers or not self.head.training):
            if layout.history and not self.fusion.remembers:
                clips = _encode_clips(batch, layout.history, encode)
            for window in layout.history:
                fused, states["fusion"] = self._fuse(clips.windows([window]), Memory(states))
                history.append(fused.seen_by("head"))
        targets = [_targets(batch, [window]) for window in layout.history]
        now = _targets(batch, [layout.reference_window])
        states["head"] = self.head.recall(states["head"], history, targets, now)
        return Memory(states)


@dataclass(frozen=True)
class _EncodedClips:
    """Encoded frames of clips, ordered by clip, then by position in the clip.

    Args:
        batch: The clips.
        positions: Which positions of every clip are encoded.
        frames: The encoded frames.
    """

    batch: ClipBatch
    positions: list[int]
    frames: EncodedFrames

    def windows(self, windows: Sequence[Sequence[int]]) -> WindowBatch:
        """Return the given windows of all clips, ordered by window, then by clip."""
        length = len(self.positions)
        place = {position: number for number, position in enumerate(self.positions)}
        rows = torch.tensor(
            [
                [clip * length + place[position] for position in window]
                for window in windows
                for clip in range(len(self.batch.frames))
            ]
        )
        index = rows.to(self.batch.frames.device, non_blocking=True)
        return WindowBatch.of(self.frames, index, self.batch.layout.reference)


def _encode_clips(
    batch: ClipBatch, windows: Sequence[Sequence[int]], encode: FrameEncoder
) -> _EncodedClips:
    """Encode the frames of the given windows of all clips in one call."""
    positions = sorted(set(chain.from_iterable(windows)))
    sizes = [infos[position].size for infos in batch.infos for position in positions]
    frames = batch.frames[:, positions].flatten(0, 1)
    encoded = encode(frames, torch.tensor(sizes, device=frames.device))
    return _EncodedClips(batch, positions, encoded)


def _targets(batch: ClipBatch, windows: Sequence[Sequence[int]]) -> Targets:
    """Return the objects of all frames of the given windows."""
    known = batch.known_targets
    return [[clip[position] for position in window] for window in windows for clip in known]


def _trained_targets(batch: ClipBatch, windows: Sequence[Sequence[int]]) -> Targets:
    """Return the same as `_targets`, but None for reference frames that contribute no loss."""
    targets = [list(clip) for clip in _targets(batch, windows)]
    infos = [clip[window[batch.layout.reference]] for window in windows for clip in batch.infos]
    for target, info in zip(targets, infos, strict=True):
        if not info.has_loss:
            target[batch.layout.reference] = None
    return targets
