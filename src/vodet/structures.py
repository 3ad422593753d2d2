"""Data structures shared by the parts of vodet.

Shape letters: ``B`` clips, ``T`` frames per clip, ``C H W`` channels, height and width, ``n``
boxes per frame. Boxes are ``xyxy`` float32 in pixels; sizes are always ``(height, width)`` in
pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from vodet.errors import ConfigError

Size = tuple[int, int]


NO_CATEGORY = -(2**63)  # category id of a class that is missing from the annotation file


class Target(TypedDict):
    """Annotated objects of one frame, in torchvision's convention.

    Attributes:
        boxes: ``[n, 4]`` xyxy float32.
        labels: ``[n]`` int64, from 0, without background.
        track_ids: ``[n]`` int64; -1 for an object without a track id.
        iscrowd: ``[n]`` bool; True for crowd and ignore regions, which count neither as objects
            nor as background.
    """

    boxes: Tensor
    labels: Tensor
    track_ids: Tensor
    iscrowd: Tensor


class Detections(TypedDict):
    """Detected objects of one frame, highest score first.

    Attributes:
        boxes: ``[n, 4]`` xyxy float32.
        scores: ``[n]``.
        labels: ``[n]`` int64, from 0, without background.
        track_ids: ``[n]`` int64, if a tracker added them; vodet itself does not.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    track_ids: NotRequired[Tensor]


def without_padding(found: Detections) -> list[Detections]:
    """Return the detections of each frame whose score is above 0.

    Args:
        found: Detections of ``B`` frames, the same number of rows for each frame: ``boxes``
            ``[B, D, 4]``, ``scores`` and ``labels`` ``[B, D]``.
    """
    rows = [(scores > 0).nonzero()[:, 0] for scores in found["scores"]]
    return [
        Detections(
            boxes=found["boxes"][frame, own],
            scores=found["scores"][frame, own],
            labels=found["labels"][frame, own],
        )
        for frame, own in enumerate(rows)
    ]


def clamped(reference: int, offsets: Sequence[int], length: int) -> list[int]:
    """Return ``reference + offset`` for each offset, clamped to the range 0 to ``length - 1``."""
    return [min(max(reference + offset, 0), length - 1) for offset in offsets]


@dataclass(frozen=True)
class Window:
    """The frames that a detector sees around the reference frame.

    Args:
        past: Number of support frames before the reference frame.
        future: Number of support frames after the reference frame; 0 makes the detector causal.
        frame_stride: Distance, in video frames, between two neighbouring frames of the window.

    Raises:
        ConfigError: If ``past`` or ``future`` is negative or ``frame_stride`` is not positive.
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
        """Index of the reference frame among the frames of the window, counted from 0."""
        return self.past

    def positions(self, reference: int, length: int) -> list[int]:
        """Return the position in the video of each frame of the window, in temporal order.

        A position before the first or after the last frame of the video becomes the position of the
        first or last frame.

        Args:
            reference: Position of the reference frame in its video, counted from 0.
            length: Number of frames of the video; for a stream, of the frames received up to now.
        """
        return clamped(reference, self.offsets, length)

    @property
    def lookahead(self) -> int:
        """Number of later video frames that a detector must receive before it predicts a frame."""
        return self.future * self.frame_stride

    @property
    def lookback(self) -> int:
        """Distance, in video frames, from the first frame of the window to the reference frame."""
        return self.past * self.frame_stride


@dataclass(frozen=True)
class FrameInfo:
    """Where a frame comes from and how it was resized.

    Args:
        video: Id of the video.
        frame_number: Number of the frame in its video, from the annotation file.
        image_id: Image id in the annotation file.
        original_size: Size of the image file.
        size: Size of the picture after resizing, without the padding that the input tensor has at
            the right and at the bottom.
        is_annotated: Whether the frame is annotated.
        has_loss: Whether a window around this frame contributes a loss. With
            ``data.losses_on=all``, a frame that occurs several times in a clip contributes once.
    """

    video: str
    frame_number: int
    image_id: int
    original_size: Size
    size: Size
    is_annotated: bool = True
    has_loss: bool = True

    def __str__(self) -> str:
        return f"video {self.video!r} frame {self.frame_number} (image id {self.image_id})"


@dataclass(frozen=True)
class ClipLayout:
    """Which frames of a clip form which windows; the same for all clips of a training run.

    A window is given by the positions of its frames in the clip.

    Args:
        windows: The windows that contribute a loss, in temporal order. One of them is the window
            around the clip's reference frame.
        reference: Index of the reference frame within every window.
        reference_frame: Position in the clip of the clip's reference frame.
        history: Additional windows of the same video, from which stages with a memory compute the
            state that they have at the start of the clip.
    """

    windows: tuple[tuple[int, ...], ...]
    reference: int
    reference_frame: int
    history: tuple[tuple[int, ...], ...] = ()

    @staticmethod
    def of_window(length: int, reference: int) -> ClipLayout:
        """Return the layout of clips that consist of a single window.

        Args:
            length: Number of frames of the window.
            reference: Position of the reference frame in the window.
        """
        return ClipLayout((tuple(range(length)),), reference, reference)

    @property
    def reference_frames(self) -> list[int]:
        """Position in the clip of the reference frame of each window in ``windows``."""
        return [window[self.reference] for window in self.windows]

    @property
    def reference_window(self) -> tuple[int, ...]:
        """The window around the clip's reference frame, as positions of its frames in the clip."""
        return next(w for w in self.windows if w[self.reference] == self.reference_frame)


@dataclass(frozen=True)
class Clip:
    """Frames of one video: a reference frame, its support frames and the frames of other windows.

    Args:
        frames: ``[T, 3, H, W]`` uint8 RGB, or ``[T]`` int64, the numbers of the frames in a
            candidate cache.
        infos: Origin and size of each frame.
        targets: Annotated objects of each frame, with boxes in pixels of the frames.
        layout: Which frames form which windows.
    """

    frames: Tensor
    infos: tuple[FrameInfo, ...]
    targets: tuple[Target, ...]
    layout: ClipLayout


@dataclass(frozen=True)
class ClipBatch:
    """Clips with the same layout, padded with black at the right and bottom to a common size.

    Args:
        frames: ``[B, T, 3, H, W]`` uint8 RGB, or ``[B, T]`` int64, the numbers of the frames in a
            candidate cache.
        infos: Origin and size of each frame, ``[B][T]``.
        targets: Annotated objects of each frame, ``[B][T]``, with boxes in pixels of the frames.
        layout: Which frames form which windows.
    """

    frames: Tensor
    infos: tuple[tuple[FrameInfo, ...], ...]
    targets: tuple[tuple[Target, ...], ...]
    layout: ClipLayout

    @property
    def known_targets(self) -> list[list[Target | None]]:
        """The target of each frame, ``[B][T]``; None for frames that are not annotated."""
        return [
            [
                target if info.is_annotated else None
                for target, info in zip(targets, infos, strict=True)
            ]
            for targets, infos in zip(self.targets, self.infos, strict=True)
        ]

    @property
    def reference_infos(self) -> list[FrameInfo]:
        """The `FrameInfo` of the reference frame of each clip, ``[B]``."""
        return [infos[self.layout.reference_frame] for infos in self.infos]

    def _apply(self, function: Callable[[Tensor], Tensor]) -> ClipBatch:
        return replace(
            self,
            frames=function(self.frames),
            targets=tuple(
                tuple(_apply_to_target(t, function) for t in clip) for clip in self.targets
            ),
        )

    def to(self, device: torch.device | str) -> ClipBatch:
        """Move the tensors to a device, asynchronously if their memory is pinned."""
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
        frames: ``[n, 3, H, W]`` uint8 RGB; ``n`` is 0 if a process has no video to evaluate.
        infos: Origin and size of each frame.
        is_first: Whether the first frame of the chunk is the first frame of the video.
        is_last: Whether the last frame of the chunk is the last frame of the video.
    """

    frames: Tensor
    infos: tuple[FrameInfo, ...]
    is_first: bool
    is_last: bool

    def to(self, device: torch.device | str) -> VideoChunk:
        """Move the frames to a device, asynchronously if their memory is pinned."""
        return replace(self, frames=self.frames.to(device, non_blocking=True))

    def pin_memory(self) -> VideoChunk:
        """Pin the frames, for faster copies to a GPU."""
        return replace(self, frames=self.frames.pin_memory())


@dataclass(frozen=True)
class FrameDetections:
    """Detections of one frame of a video, with the index of the frame, counted from 0."""

    frame_index: int
    detections: Detections


@dataclass(frozen=True)
class GroundTruth:
    """Annotations of a whole data set: ``V`` videos, ``F`` frames, ``A`` boxes and ``K`` classes.

    All boxes of the data set are stored one after the other, frame by frame. The boxes of frame
    ``f`` are ``boxes[box_starts[f]:box_starts[f + 1]]``.

    Args:
        class_names: Names of the labels.
        category_ids: Category id of each label in the annotation file, ``[K]`` int64;
            ``NO_CATEGORY`` for classes that are missing from the file.
        image_ids: Image id of each annotated frame, ``[F]`` int64.
        sizes: ``(height, width)`` of each frame, ``[F, 2]`` int32.
        videos: Index of the video of each frame, ``[F]`` int64.
        frame_numbers: Number of each frame in its video, ``[F]`` int32.
        box_starts: Index of the first box of each frame, then the total number, ``[F + 1]``
            int64.
        boxes: xyxy in original pixels, ``[A, 4]`` float32.
        labels: Class of each box, ``[A]`` int64.
        track_ids: Track id of each box, unique within its video, ``[A]`` int32; -1 where unknown.
        areas: Annotated area of each object in square pixels, ``[A]`` float32; the area of its box
            if no area is annotated.
        iscrowd: Whether each box is a crowd or ignore region, ``[A]`` bool.
        attribute_names: Names of video attributes, such as ``night``.
        video_attributes: Whether each video has each attribute, ``[V, attributes]`` bool.
        video_names: Names of the videos, ``[V]``, for error messages.
        source: The file that the annotations were read from, for error messages.
    """

    class_names: tuple[str, ...]
    category_ids: np.ndarray
    image_ids: np.ndarray
    sizes: np.ndarray
    videos: np.ndarray
    frame_numbers: np.ndarray
    box_starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    track_ids: np.ndarray
    areas: np.ndarray
    iscrowd: np.ndarray
    attribute_names: tuple[str, ...] = ()
    video_attributes: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))
    video_names: tuple[str, ...] = ()
    source: str = "the data"

    @property
    def frames(self) -> np.ndarray:
        """The frame of each box, as an index into ``image_ids``, ``[A]`` int64."""
        return np.repeat(np.arange(len(self.image_ids)), np.diff(self.box_starts))

    def select(self, frames: np.ndarray) -> GroundTruth:
        """Return the annotations of some of the frames, in the same order.

        Args:
            frames: Mask of the frames to keep, ``[F]`` bool.
        """
        lengths = np.diff(self.box_starts)
        boxes = np.repeat(frames, lengths)
        return replace(
            self,
            image_ids=self.image_ids[frames],
            sizes=self.sizes[frames],
            videos=self.videos[frames],
            frame_numbers=self.frame_numbers[frames],
            box_starts=np.append(0, np.cumsum(lengths[frames])),
            boxes=self.boxes[boxes],
            labels=self.labels[boxes],
            track_ids=self.track_ids[boxes],
            areas=self.areas[boxes],
            iscrowd=self.iscrowd[boxes],
        )
