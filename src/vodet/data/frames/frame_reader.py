"""Reads and resizes the frames of a data set; a bad frame raises an error or is recorded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import UInt8

from vodet.boxes import rescale_boxes
from vodet.data.annotations.index import VideoIndex
from vodet.data.frames.images import ExifUse, image_path, read_frame, reduction_for
from vodet.data.frames.resize import Letterbox
from vodet.errors import ConfigError, FrameError
from vodet.stages import FrameResize
from vodet.structures import FrameInfo, Size, Target

logger = logging.getLogger(__name__)

OnBadFrame = Literal["raise", "skip"]


class FrameReader:
    """Reads and resizes the frames of a data set, and records bad frames.

    A frame is bad if its image is missing, damaged or not of the annotated size. Methods take the
    row of a frame in the index.

    Args:
        index: The annotations of the data set.
        images: The image root: a folder or an fsspec URL.
        resize: Applied to every frame after reading.
        on_bad_frame: ``raise`` raises an error for a bad frame; ``skip`` records that it is bad.
        exif: ``apply`` rotates images by their EXIF orientation; ``ignore`` leaves them as stored.

    Raises:
        ConfigError: If ``on_bad_frame`` or ``exif`` has another value.
    """

    def __init__(
        self,
        index: VideoIndex,
        images: str,
        resize: FrameResize,
        on_bad_frame: OnBadFrame,
        exif: ExifUse = "apply",
    ) -> None:
        _check_choice("on_bad_frame", on_bad_frame, get_args(OnBadFrame))
        _check_choice("exif", exif, get_args(ExifUse))
        self.index = index
        self.images = images
        self.resize = resize
        self.on_bad_frame = on_bad_frame
        self.exif: ExifUse = exif
        # In shared memory, because workers write to it; one flag per frame needs no lock.
        # Created outside inference mode, in which evaluation creates its loaders, because a tensor
        # from inference mode could not be changed outside of it.
        with torch.inference_mode(mode=False):
            self._is_bad = torch.zeros(index.num_frames, dtype=torch.bool)
        self._is_bad.share_memory_()  # type: ignore[no-untyped-call]  # torch gives it no types

    def size(self, row: int) -> Size:
        """Return the annotated ``(height, width)`` of a frame's image file."""
        height, width = self.index.sizes[row].tolist()
        return height, width

    def size_after_resizing(self, row: int) -> Size:
        """Return the size of a frame that `read` returns, with any padding by the resize."""
        height, width = self.resize(np.zeros((*self.size(row), 3), np.uint8)).shape[:2]
        return height, width

    def read(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """Read and resize a frame.

        Raises:
            FrameError: If its image is missing, damaged or not of the annotated size.
        """
        size = self.size(row)
        path = image_path(self.images, self.index.file_name(row))
        reduction = reduction_for(size, self.resize)
        image_id = int(self.index.image_ids[row])
        return self.resize(read_frame(path, image_id, size, reduction, self.exif))

    def read_or_record(self, row: int) -> UInt8[np.ndarray, "height width 3"] | None:
        """Read and resize a frame; record a bad frame and return None if it is to be skipped.

        Raises:
            FrameError: If the frame is bad and ``on_bad_frame`` is ``raise``.
        """
        try:
            return self.read(row)
        except FrameError:
            if self.on_bad_frame == "raise":
                raise
            self.record_bad(row)
            return None

    def record_bad(self, row: int) -> None:
        """Record a bad frame for `report_bad_frames`."""
        self._is_bad[row] = True

    def target(self, row: int) -> Target:
        """Return the annotated boxes of a frame, in pixels of the resized frame.

        In a video of one frame, such as a still image, each object gets a track id of its own.
        """
        size = self.size(row)
        target = self.index.target(row)
        if len(self.index.frames_of(self.index.video_of(row))) == 1:
            target["track_ids"] = torch.arange(len(target["boxes"]))
        target["boxes"] = rescale_boxes(target["boxes"], size, self.resize.target_size(size))
        return target

    def info(self, row: int, size: Size | None = None, is_known: bool = True) -> FrameInfo:
        """Return the ``FrameInfo`` of a frame: its video, number, image id and sizes.

        Args:
            row: Row of the frame in the index.
            size: ``(height, width)`` of the frame after augmentation, before the batch is padded;
                by default, the size after resizing.
            is_known: Whether the frame could be read; otherwise it is marked as not annotated.
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

    def expect_one_size(self, frames: Sequence[np.ndarray], rows: Sequence[int]) -> None:
        """Check that frames of one video have the same size after resizing.

        Args:
            frames: The resized frames.
            rows: Rows of the frames in the index.

        Raises:
            FrameError: If the sizes differ. The message names the video, and one file of each size
                before resizing.
        """
        if len({frame.shape for frame in frames}) == 1:
            return
        files: dict[Size, str] = {}
        for row in rows:
            files.setdefault(self.size(row), self.index.file_name(row))
        sizes = ", ".join(f"{height} x {width} ({files[height, width]})" for height, width in files)
        msg = (
            f"Video {self.index.video_name(self.index.video_of(rows[0]))!r} of "
            f"{self.index.source}: the frames of a video must have the same size (height x width), "
            f"found {sizes}. Convert the images to one size, or pad them to H x W pixels with "
            f"'~data.resize' '+data.resize={{_target_: {Letterbox.__module__}.Letterbox, "
            "height: H, width: W}'."
        )
        raise FrameError(msg)

    def report_bad_frames(self) -> None:
        """Log how many bad frames were skipped since the last report, and the first errors."""
        rows = self._is_bad.nonzero()[:, 0].tolist()
        self._is_bad.zero_()
        if not rows:
            return
        message = "%d bad frames of %s were skipped. The first errors:\n%s"
        texts = "\n".join(self._why_bad(row) for row in rows[:3])
        logger.warning(message, len(rows), self.index.source, texts)

    def _why_bad(self, row: int) -> str:
        """Return the error of a bad frame by reading it again, since workers record no errors."""
        try:
            self.read(row)
        except FrameError as error:
            return str(error)
        return f"{self.index.file_name(row)}: could not be read at first, but can be read now."


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        msg = f"data.{name} must be one of {', '.join(choices)}; found {value!r}."
        raise ConfigError(msg)
