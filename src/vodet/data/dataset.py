"""Clips to train on and chunks of videos to evaluate on, read from an index."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vodet.boxes import rescale_boxes
from vodet.data.frames import image_path, read_frame, reduction_for
from vodet.data.index import VideoIndex
from vodet.data.sampling import (
    TemporalDropout,
    clip_generator,
    memory_references,
    reference_frames,
    window_positions,
)
from vodet.data.transforms import ClipTransform, OriginalSize
from vodet.errors import DataError, FrameError
from vodet.structures import Clip, FrameInfo, FrameResize, Size, Target, VideoChunk, Window

logger = logging.getLogger(__name__)

OnBadFrame = Literal["raise", "skip"]
NO_VIDEO = -1
# So many bad clips in a row are not a few bad files: the images are not there.
MAX_SKIPPED_IN_A_ROW = 100


@dataclass(frozen=True)
class Source:
    """Where a data set lies.

    Args:
        annotations: ST-COCO file.
        images: Folder or fsspec URL that the file names in it are relative to.
    """

    annotations: str
    images: str


class FrameSource:
    """Frames of an index, read at the size of a resize, and the record of those that are bad.

    Args:
        index: The data set.
        images: Folder or fsspec URL of the images.
        resize: How frames are brought to size.
        on_bad_frame: ``raise`` lets the error of a bad frame stop everything; ``skip`` records it.
    """

    def __init__(
        self, index: VideoIndex, images: str, resize: FrameResize, on_bad_frame: OnBadFrame
    ) -> None:
        self.index = index
        self.images = images
        self.resize = resize
        self.on_bad_frame = on_bad_frame
        # In shared memory, for workers to write to: one flag a frame is safe without a lock.
        # Loaders of an evaluation are made in inference mode, and its tensors are read-only later.
        with torch.inference_mode(mode=False):
            self._is_bad = torch.zeros(index.num_frames, dtype=torch.bool)
        self._is_bad.share_memory_()  # type: ignore[no-untyped-call]  # torch gives it no types

    def size(self, row: int) -> Size:
        """Return the size of the image file of a frame, as annotated."""
        height, width = self.index.sizes[row].tolist()
        return height, width

    def read(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """Read a frame at the size of the resize.

        Raises:
            FrameError: If the image is bad.
        """
        size = self.size(row)
        path = image_path(self.images, self.index.file_name(row))
        reduction = reduction_for(size, self.resize)
        return self.resize(read_frame(path, int(self.index.image_ids[row]), size, reduction))

    def read_or_record(self, row: int) -> UInt8[np.ndarray, "height width 3"] | None:
        """Read a frame; where it is bad and bad ones are skipped, record that and return None.

        Raises:
            FrameError: If the image is bad and ``on_bad_frame`` is ``raise``.
        """
        try:
            return self.read(row)
        except FrameError:
            if self.on_bad_frame == "raise":
                raise
            self._is_bad[row] = True
            return None

    def target(self, row: int) -> Target:
        """Return the objects of a frame in pixels of the resized picture."""
        size = self.size(row)
        target = self.index.target(row)
        target["boxes"] = rescale_boxes(target["boxes"], size, self.resize.target_size(size))
        return target

    def info(self, row: int, size: Size | None = None, is_known: bool = True) -> FrameInfo:
        """Describe a frame.

        Args:
            row: The frame.
            size: Size of the picture in the input where the resize did not decide it.
            is_known: Whether the picture is that of the frame.
        """
        original_size = self.size(row)
        return FrameInfo(
            video=self.index.video_name(self.index.video_of(row)),
            frame_number=int(self.index.frame_numbers[row]),
            image_id=int(self.index.image_ids[row]),
            original_size=original_size,
            size=size or self.resize.target_size(original_size),
            is_annotated=bool(self.index.is_annotated[row]) and is_known,
        )

    def report_bad_frames(self) -> None:
        """Log how many frames were skipped since the last report, with the first three errors."""
        rows = self._is_bad.nonzero()[:, 0].tolist()
        self._is_bad.zero_()
        if not rows:
            return
        message = "%d bad frames of %s were skipped. The first of them:\n%s"
        texts = "\n".join(self._why_bad(row) for row in rows[:3])
        logger.warning(message, len(rows), self.index.source, texts)

    def _why_bad(self, row: int) -> str:
        """Say what is wrong with a frame; reading it again needs no messages between processes."""
        try:
            self.read(row)
        except FrameError as error:
            return str(error)
        return f"{self.index.file_name(row)}: bad at first, readable by now."


class ClipDataset(Dataset[Clip]):
    """Clips to train on; item ``(epoch, clip)`` is the same wherever and whenever it is made.

    With ``on_bad_frame=skip`` the next clip whose frames are good stands in for one with a bad
    frame.

    Args:
        index: The data set.
        images: Folder or fsspec URL of the images.
        window: The frames around a reference frame.
        resize: Applied to frames before the transform.
        transform: Augmentation; one draw for a clip and its memory windows.
        temporal_dropout: Random choice of support frames in each window; None keeps all.
        memory_windows: Number of further windows of the same video.
        clips_per_video: The most reference frames of a video, evenly spaced; None takes all.
        on_bad_frame: ``raise`` or ``skip``.
        seed: Decides, with the epoch, all that is drawn.

    Raises:
        ConfigError: If the temporal dropout does not fit the window.
        DataError: If no frame is annotated.
    """

    def __init__(
        self,
        index: VideoIndex,
        images: str,
        window: Window,
        *,
        resize: FrameResize | None = None,
        transform: ClipTransform | None = None,
        temporal_dropout: TemporalDropout | None = None,
        memory_windows: int = 0,
        clips_per_video: int | None = None,
        on_bad_frame: OnBadFrame = "raise",
        seed: int = 0,
    ) -> None:
        self.source = FrameSource(index, images, resize or OriginalSize(), on_bad_frame)
        self.window = window
        self.transform = transform or ClipTransform()
        self.temporal_dropout = temporal_dropout
        self.memory_windows = memory_windows
        self.seed = seed
        if temporal_dropout is not None:
            temporal_dropout.check(window)
        rows = reference_frames(index.video_starts, index.is_annotated, clips_per_video)
        self.references = rows.astype(np.int32)  # workers that are spawned get a copy
        if not len(rows):
            msg = f"{index.source} has no annotated frame, so there is no clip to train on."
            raise DataError(msg)

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, item: tuple[int, int] | int) -> Clip:
        """Return a clip.

        Args:
            item: Epoch and number of the clip; the number alone stands for epoch 0.

        Raises:
            FrameError: If a frame is bad and such are not skipped.
            DataError: If so many are bad that the images cannot be there.
        """
        epoch, first = item if isinstance(item, tuple) else (0, item)
        for clip in range(first, first + MAX_SKIPPED_IN_A_ROW):
            made = self._make(epoch, clip % len(self))
            if made is not None:
                return made
        msg = (
            f"No clip without a bad frame among {MAX_SKIPPED_IN_A_ROW} in a row from "
            f"{self.source.index.source}. Are the images below {self.source.images}?"
        )
        raise DataError(msg)

    def _make(self, epoch: int, clip: int) -> Clip | None:
        generator = clip_generator(self.seed, epoch, clip)
        windows, reference = self._windows(clip, generator)
        # A frame that occurs several times, as at the borders, is read and transformed once.
        rows, positions = np.unique(np.array(windows), return_inverse=True)
        frames = [self.source.read_or_record(int(row)) for row in rows]
        good = [frame for frame in frames if frame is not None]
        if len(good) < len(frames):
            return None
        targets = [self.source.target(int(row)) for row in rows]
        images, targets_left = self.transform(good, targets, generator)
        pictures = channels_first(images)
        infos = [self.source.info(int(row), images[0].shape[:2]) for row in rows]
        first, *others = (
            _pick(pictures, infos, targets_left, window, reference)
            for window in positions.reshape(len(windows), -1).tolist()
        )
        return Clip(first.frames, first.infos, first.targets, reference, tuple(others))

    def _windows(self, clip: int, generator: np.random.Generator) -> tuple[list[list[int]], int]:
        """Draw the rows of the clip's window and of its memory windows, and the reference."""
        row = int(self.references[clip])
        video = self.source.index.frames_of(self.source.index.video_of(row))
        position = row - video.start
        references = [position]
        if self.memory_windows:
            references += memory_references(
                self.memory_windows, position, len(video), self.window, generator
            )
        dropout, window = self.temporal_dropout, self.window
        windows = []
        for reference in references:
            offsets = dropout.offsets(window, generator) if dropout else window.offsets
            positions = window_positions(reference, len(video), offsets)
            windows.append([video[position] for position in positions])
        return windows, dropout.past if dropout else window.reference


def _pick(
    frames: Tensor,
    infos: Sequence[FrameInfo],
    targets: Sequence[Target],
    positions: list[int],
    reference: int,
) -> Clip:
    return Clip(
        frames=frames if positions == list(range(len(frames))) else frames[positions],
        infos=tuple(infos[position] for position in positions),
        targets=tuple(targets[position] for position in positions),
        reference=reference,
    )


def channels_first(frames: Sequence[np.ndarray]) -> UInt8[Tensor, "n 3 h w"]:
    """Stack pictures ``[H, W, 3]`` of one size; OpenCV's split is faster than transposing."""
    result = np.empty((len(frames), 3, *frames[0].shape[:2]), np.uint8)
    for planes, frame in zip(result, frames, strict=True):
        cv2.split(frame, list(planes))
    return torch.from_numpy(result)


class VideoChunkDataset(Dataset[VideoChunk]):
    """Whole videos in chunks of consecutive frames, for evaluation; item -1 is an empty chunk.

    With ``on_bad_frame=skip`` the last good frame of the video stands in for a bad one (black,
    where there is none), so that the stream keeps its time. Such a frame counts as not annotated
    in its ``FrameInfo``: what is detected in it is not evaluated, and its objects are missed.

    Args:
        index: The data set.
        images: Folder or fsspec URL of the images.
        resize: How frames are brought to the size at which they are evaluated.
        chunk_size: The most frames of a chunk.
        on_bad_frame: ``raise`` or ``skip``.
    """

    def __init__(
        self,
        index: VideoIndex,
        images: str,
        *,
        resize: FrameResize | None = None,
        chunk_size: int = 16,
        on_bad_frame: OnBadFrame = "raise",
    ) -> None:
        self.source = FrameSource(index, images, resize or OriginalSize(), on_bad_frame)
        self.chunks: list[range] = []
        self.chunks_of_video: list[range] = []
        for video in range(index.num_videos):
            frames = index.frames_of(video)
            first = len(self.chunks)
            self.chunks += [
                frames[start : start + chunk_size] for start in range(0, len(frames), chunk_size)
            ]
            self.chunks_of_video.append(range(first, len(self.chunks)))

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, chunk: int) -> VideoChunk:
        """Return a chunk.

        Raises:
            FrameError: If a frame is bad and such are not skipped, or if the frames of the video
                differ in size after resizing.
        """
        if chunk == NO_VIDEO:
            return VideoChunk(torch.zeros(0, 3, 1, 1, dtype=torch.uint8), (), True, True)
        rows = self.chunks[chunk]
        video = self.source.index.frames_of(self.source.index.video_of(rows.start))
        frames: list[np.ndarray] = []
        infos = []
        for row in rows:
            frame = self.source.read_or_record(row)
            infos.append(self.source.info(row, is_known=frame is not None))
            if frame is None:
                frame = frames[-1] if frames else self._stand_in(range(video.start, row))
            frames.append(frame)
        if len({frame.shape for frame in frames}) > 1:
            msg = (
                f"Video {infos[0].video!r}: frames must have one size, found several: "
                f"{sorted({info.original_size for info in infos})}. A letterbox makes them one."
            )
            raise FrameError(msg)
        return VideoChunk(
            frames=channels_first(frames),
            infos=tuple(infos),
            is_first=rows.start == video.start,
            is_last=rows.stop == video.stop,
        )

    def _stand_in(self, earlier: range) -> np.ndarray:
        """Return the last good one of some frames, or a black one."""
        for row in reversed(earlier):
            frame = self.source.read_or_record(row)
            if frame is not None:
                return frame
        return self.source.resize(np.zeros((*self.source.size(earlier.stop), 3), np.uint8))
