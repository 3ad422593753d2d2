"""Reads the frames of a video, from images or a video file, in a background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from vodet.errors import FrameError
from vodet.files import read_file
from vodet.inference.frame_arrays import PythonFrames, frames_as_arrays
from vodet.pictures import (
    JPEG_START,
    MAX_PIXELS,
    PNG_START,
    count_pictures,
    decode_picture,
    read_header,
    read_size,
    turn_upright,
)


class NamedFrame(NamedTuple):
    """A frame of a video.

    Args:
        name: The name of the image file, or the number of the frame in the video file.
        pixels: uint8 RGB ``[H, W, 3]``.
        time: Seconds since the first frame; None if unknown.
    """

    name: str
    pixels: np.ndarray
    time: Fraction | None = None


Frames = Generator[NamedFrame, None, None]


@dataclass(frozen=True)
class FrameSource:
    """The frames of one video. Iterate over the source to read the frames.

    Args:
        name: Name of the video and of its output files.
        fps: Average number of frames per second; None for images.
        length: Number of frames according to the file; None if unknown.
        open: Opens the video and returns a generator of its frames.
        read_ahead: Maximum number of frames that a thread reads ahead, which limits the memory
            used; 0 to read without a thread.
        pixel_aspect: Width of a pixel divided by its height when the video is shown.
        time_base: Unit of the frames' timestamps, in seconds; None if they have no timestamps.
        faults: Sentences that describe missing and damaged frames; filled after the last frame.
    """

    name: str
    fps: Fraction | None
    length: int | None
    open: Callable[[], Frames]
    read_ahead: int = 8
    pixel_aspect: Fraction = Fraction(1)
    time_base: Fraction | None = None
    faults: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[NamedFrame]:
        self.faults.clear()
        frames = self.open()
        return _of_one_size(_ahead(frames, self.read_ahead) if self.read_ahead else frames)


def open_images(name: str, paths: Sequence[Path]) -> FrameSource:
    """Return images as the frames of a video; EXIF orientations are applied."""
    return FrameSource(name, None, len(paths), lambda: _read_images(paths))


def open_frames(name: str, frames: Iterable[PythonFrames]) -> FrameSource:
    """Return frames from Python code, such as a camera, as the frames of a video.

    They are read when they are needed, without reading ahead, so that live frames have no delay.

    Args:
        name: Name of the video.
        frames: uint8 RGB frames, as for `frames_as_arrays`.
    """
    return FrameSource(name, None, None, lambda: _python_frames(frames), read_ahead=0)


def _python_frames(items: Iterable[PythonFrames]) -> Frames:
    number = 0
    for item in items:
        for pixels in frames_as_arrays(item):
            # A copy, since a camera may reuse its buffer before the detections are ready.
            yield NamedFrame(f"{number:06d}", pixels.copy())
            number += 1
    if not number:
        msg = "Expected at least one frame, found an iterable without frames."
        raise FrameError(msg)


def raise_faults(faults: Sequence[str]) -> None:
    """Raise an error if a video could not be read completely.

    Args:
        faults: For each video, a text about what could not be read, empty if there is nothing.

    Raises:
        FrameError: If one of the texts is not empty; the message lists all of them.
    """
    found = [text for text in faults if text]
    if len(faults) == 1 and found:
        raise FrameError(found[0])
    if found:
        listed = "\n".join(found).replace("\n", "\n  ")
        msg = (
            f"{len(found)} of {len(faults)} videos could not be read completely. The output of the "
            f"other videos is complete.\n  {listed}"
        )
        raise FrameError(msg)


def _read_images(paths: Sequence[Path]) -> Frames:
    for path in paths:
        yield NamedFrame(path.name, read_image(path))


def read_image(path: Path) -> np.ndarray:
    """Return the pixels of an image file, upright by its EXIF orientation, uint8 RGB ``[H, W, 3]``.

    Raises:
        FrameError: If the file cannot be read, has too many pixels, or is damaged.
    """
    try:
        data = read_file(path)
        pixels = _decode(data)
    except (OSError, ValueError, cv2.error) as error:
        msg = f"{path}: expected an image, found a file that cannot be read: {error}."
        raise FrameError(msg) from error
    if pixels is None:
        msg = f"{path}: expected an image, found {len(data)} bytes that cannot be decoded."
        raise FrameError(msg)
    return pixels


def _decode(data: bytes) -> np.ndarray | None:
    """Return the pixels of an encoded image, or None if it cannot be decoded.

    Raises:
        ValueError: If the image is too large, is a damaged JPEG or PNG, or the file contains
            several images.
    """
    height, width = read_size(data) or (0, 0)
    if height * width > MAX_PIXELS:
        msg = f"it has {height} x {width} pixels, more than the limit of {MAX_PIXELS:,}"
        raise ValueError(msg)
    if (count := count_pictures(data)) > 1:
        msg = f"it contains {count} pictures; save each in a separate file, or all as a video"
        raise ValueError(msg)
    if header := read_header(data):
        return turn_upright(decode_picture(data, header.stored_size), header.orientation)
    if not data or data.startswith((JPEG_START, PNG_START)):
        return None
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def _ahead(frames: Frames, number: int) -> Iterator[NamedFrame]:
    """Yield frames while a thread reads up to ``number`` frames ahead."""
    pool = ThreadPoolExecutor(1, "vodet-frames")
    try:
        waiting = deque(pool.submit(next, frames, None) for _ in range(number))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, frames, None))
            yield item
    finally:  # also if the consumer stops early
        pool.shutdown(cancel_futures=True)
        frames.close()


def _of_one_size(frames: Iterator[NamedFrame]) -> Iterator[NamedFrame]:
    expected = None
    for frame in frames:
        found = frame.pixels.shape[:2]
        expected = expected or found
        if found != expected:
            msg = (
                f"Expected all frames to have the size of the first, {expected} (height, width), "
                f"found {found} in frame {frame.name}. Resize the frames, or put frames of "
                "different sizes in different videos."
            )
            raise FrameError(msg)
        yield frame
