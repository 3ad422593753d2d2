"""The values that cross a border between parts of vodet.

Shape letters: ``F`` frames, ``B`` clips, ``T`` frames of a clip, ``C H W`` channels, height and
width, ``n`` boxes of a frame, ``N`` RoIs of the reference frame, ``M`` RoIs of the memory. Boxes
are ``xyxy`` float32 in pixels; sizes are always ``(height, width)`` in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from vodet.errors import ConfigError

Size = tuple[int, int]


class Target(TypedDict):
    """Annotated objects of one frame, in torchvision's convention.

    ``boxes`` ``[n, 4]`` xyxy float32, ``labels`` ``[n]`` int64, ``track_ids`` ``[n]`` int64 (-1
    where unknown), ``iscrowd`` ``[n]`` bool: regions that are neither object nor background.
    """

    boxes: Tensor
    labels: Tensor
    track_ids: Tensor
    iscrowd: Tensor


class Detections(TypedDict):
    """Detected objects of one frame, best first.

    ``boxes`` ``[n, 4]`` xyxy float32, ``scores`` ``[n]``, ``labels`` ``[n]`` int64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Window:
    """The frames that a detector sees around the reference frame.

    Args:
        past: Number of support frames before the reference frame.
        future: Number of support frames after it; 0 makes the detector causal.
        frame_stride: Distance, in frames, between two neighbouring frames of the window.

    Raises:
        ConfigError: If a number is negative or ``frame_stride`` is not positive.
    """

    past: int = 0
    future: int = 0
    frame_stride: int = 1

    def __post_init__(self) -> None:
        if self.past < 0 or self.future < 0 or self.frame_stride < 1:
            msg = (
                "A window needs past >= 0, future >= 0 and frame_stride >= 1, found "
                f"past={self.past}, future={self.future}, frame_stride={self.frame_stride}."
            )
            raise ConfigError(msg)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Frame offsets from the reference frame: ``past=1, frame_stride=2`` gives ``(-2, 0)``."""
        return tuple(step * self.frame_stride for step in range(-self.past, self.future + 1))

    @property
    def reference(self) -> int:
        """Position of the reference frame in the window."""
        return self.past

    @property
    def lookahead(self) -> int:
        """How many later frames must be seen before a frame can be answered."""
        return self.future * self.frame_stride

    @property
    def lookback(self) -> int:
        """How many earlier frames an answer depends on."""
        return self.past * self.frame_stride


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
        features: ``[B, T, N, C, s, s]``.
        boxes: In pixels of the input, ``[B, T, N, 4]``.
        objectness: Logits of the reference frame, ``[B, N]``.
        is_valid: ``[B, N]``; the others fill up windows with fewer RoIs.
        sizes: ``(height, width)`` of the pictures, ``[B, 2]``.
        reference: Place of the reference frame among the ``T``.
    """

    features: Tensor
    boxes: Tensor
    objectness: Tensor
    is_valid: Tensor
    sizes: Tensor
    reference: int

    def fused(self, features: Tensor) -> RoIs:
        """Return the RoIs of the reference frame alone, with features ``[B, N, C, s, s]``."""
        boxes = self.boxes[:, self.reference].unsqueeze(1)
        return replace(self, features=features.unsqueeze(1), boxes=boxes, reference=0)


@dataclass(frozen=True)
class KeyFrame:
    """RoIs that are remembered of a frame: features ``[M, D]`` and boxes in pixels ``[M, 4]``."""

    features: Tensor
    boxes: Tensor


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


@dataclass(frozen=True)
class FrameInfo:
    """Where a frame comes from and how it was resized.

    Args:
        video: Id of its video.
        frame_number: Its number in the video, as annotated.
        image_id: Its id in the annotation file.
        original_size: Size of the image file.
        size: Size of the picture in the input tensor, before padding at the right and the bottom.
        is_annotated: Whether its objects are known.
    """

    video: str
    frame_number: int
    image_id: int
    original_size: Size
    size: Size
    is_annotated: bool = True

    def __str__(self) -> str:
        return f"video {self.video!r} frame {self.frame_number} (image id {self.image_id})"


@dataclass(frozen=True)
class Clip:
    """Ordered frames of one video: the reference frame and its support frames.

    Args:
        frames: ``[T, 3, H, W]`` uint8 RGB.
        infos: One per frame.
        targets: One per frame, in pixels of ``frames``.
        reference: Position of the reference frame.
        memory_windows: Further windows of the same video, for long-term memory.
    """

    frames: Tensor
    infos: tuple[FrameInfo, ...]
    targets: tuple[Target, ...]
    reference: int
    memory_windows: tuple[Clip, ...] = ()


@dataclass(frozen=True)
class ClipBatch:
    """Clips of equal length, padded with black at the right and the bottom to a common size.

    Args:
        frames: ``[B, T, 3, H, W]`` uint8 RGB.
        infos: ``[B][T]``.
        targets: ``[B][T]``, in pixels of ``frames``.
        reference: Position of the reference frame in each clip.
        memory_windows: Further windows of the same videos, each a batch in the same order of clips.
    """

    frames: Tensor
    infos: tuple[tuple[FrameInfo, ...], ...]
    targets: tuple[tuple[Target, ...], ...]
    reference: int
    memory_windows: tuple[ClipBatch, ...] = ()

    @property
    def known_targets(self) -> list[list[Target | None]]:
        """Targets ``[B][T]``, None for frames that are not annotated."""
        return [
            [
                target if info.is_annotated else None
                for target, info in zip(targets, infos, strict=True)
            ]
            for targets, infos in zip(self.targets, self.infos, strict=True)
        ]

    @property
    def reference_infos(self) -> list[FrameInfo]:
        """Infos of the reference frames, ``[B]``."""
        return [infos[self.reference] for infos in self.infos]

    def _apply(self, function: Callable[[Tensor], Tensor]) -> ClipBatch:
        return replace(
            self,
            frames=function(self.frames),
            targets=tuple(
                tuple(_apply_to_target(t, function) for t in clip) for clip in self.targets
            ),
            memory_windows=tuple(window._apply(function) for window in self.memory_windows),
        )

    def to(self, device: torch.device | str) -> ClipBatch:
        """Move the tensors to a device, without waiting where the memory is pinned."""
        return self._apply(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> ClipBatch:
        """Pin the tensors, for faster copies to a GPU."""
        return self._apply(Tensor.pin_memory)


def _apply_to_target(target: Target, function: Callable[[Tensor], Tensor]) -> Target:
    return Target(
        boxes=function(target["boxes"]),
        labels=function(target["labels"]),
        track_ids=function(target["track_ids"]),
        iscrowd=function(target["iscrowd"]),
    )


@dataclass(frozen=True)
class VideoChunk:
    """Consecutive frames of one video, for evaluation.

    Args:
        frames: ``[n, 3, H, W]`` uint8 RGB; ``n`` may be 0 for a process that has no video.
        infos: One per frame.
        is_first: Whether the video starts here.
        is_last: Whether the video ends here.
    """

    frames: Tensor
    infos: tuple[FrameInfo, ...]
    is_first: bool
    is_last: bool

    def to(self, device: torch.device | str) -> VideoChunk:
        """Move the frames to a device, without waiting where the memory is pinned."""
        return replace(self, frames=self.frames.to(device, non_blocking=True))

    def pin_memory(self) -> VideoChunk:
        """Pin the frames, for faster copies to a GPU."""
        return replace(self, frames=self.frames.pin_memory())


@dataclass(frozen=True)
class FrameDetections:
    """The answer for one frame of a stream: its position in it, from 0, and its detections."""

    frame_index: int
    detections: Detections


@dataclass(frozen=True)
class GroundTruth:
    """Annotations of a whole data set in columns.

    The boxes of frame ``f`` are rows ``box_starts[f]:box_starts[f + 1]``.

    Args:
        class_names: Names of the labels.
        category_ids: Category id of each label in the annotation file, ``[K]`` int64.
        image_ids: Ids of the annotated frames, ``[F]`` int64.
        sizes: Their sizes ``(height, width)``, ``[F, 2]`` int32.
        box_starts: ``[F + 1]`` int64.
        boxes: xyxy in original pixels, ``[A, 4]`` float32.
        labels: ``[A]`` int64.
        areas: ``[A]`` float32, in square pixels, as annotated or else of the box.
        iscrowd: ``[A]`` bool; crowds and ignore regions.
    """

    class_names: tuple[str, ...]
    category_ids: np.ndarray
    image_ids: np.ndarray
    sizes: np.ndarray
    box_starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    iscrowd: np.ndarray
