"""Frames from a video file, a folder or a glob of images, read ahead in a thread."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from vodet.errors import FrameError

NamedFrame = tuple[str, np.ndarray]
Frames = Generator[NamedFrame, None, None]

_IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}


@dataclass(frozen=True)
class FrameSource:
    """The frames of one video: iterating yields ``(name, frame)``, uint8 RGB ``[H, W, 3]``.

    Args:
        name: Name of the video file or folder, without suffix.
        fps: Frames per second, None for images.
        length: Number of frames, None if the file does not say it.
        open: Starts to read.
        read_ahead: How many frames are read before they are asked for; bounds the memory.
    """

    name: str
    fps: Fraction | None
    length: int | None
    open: Callable[[], Frames]
    read_ahead: int = 8

    def __iter__(self) -> Iterator[NamedFrame]:
        return _of_one_size(_ahead(self.open(), self.read_ahead))


def open_sources(source: str | Path) -> list[FrameSource]:
    """Find the video of `open_source`, or each of the video files of a folder or glob.

    Raises:
        FrameError: As `open_source`.
    """
    path = Path(source)
    if path.is_file():
        return [open_source(path)]
    files = list(path.iterdir()) if path.is_dir() else _matches(path)
    videos = [file for file in files if file.suffix.lower() in _VIDEO_SUFFIXES]
    if videos and not any(map(_is_image, files)):
        return [_open_video(video) for video in sorted(videos, key=_natural)]
    return [open_source(source)]


def open_source(source: str | Path) -> FrameSource:
    """Find a video file, an image, the images of a folder, or the images that match a glob.

    Images are in natural order of their paths: 2.jpg before 10.jpg. Rotations that a video or an
    image asks for are applied.

    Raises:
        FrameError: If nothing is there or it is no video or image. Damaged files and frames of
            unequal size are found while reading.
    """
    path = Path(source)
    if path.is_dir():
        images = [file for file in path.iterdir() if _is_image(file)]
        return _open_images(path.resolve().name, images, source)
    if path.is_file():
        return _open_images(path.stem, [path], source) if _is_image(path) else _open_video(path)
    matches = _matches(path)
    if not matches:
        msg = f"Expected a video, a folder of images or a glob of images; found nothing at {source}"
        raise FrameError(msg)
    name = _folder_of(path).resolve().name
    return _open_images(name, [file for file in matches if _is_image(file)], source)


def _folder_of(pattern: Path) -> Path:
    """Return the folder that a glob starts from."""
    while set("*?[") & set(str(pattern)):
        pattern = pattern.parent
    return pattern


def _matches(pattern: Path) -> list[Path]:
    folder = _folder_of(pattern)
    return list(folder.glob(str(pattern.relative_to(folder)))) if folder != pattern else []


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _IMAGE_SUFFIXES and not path.name.startswith(".")


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", str(path))
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], str(path)


def _open_images(name: str, paths: list[Path], source: str | Path) -> FrameSource:
    if not paths:
        known = ", ".join(sorted(_IMAGE_SUFFIXES))
        msg = (
            f"Expected images ({known}) at {source}, found none. Name a video file, or its frames."
        )
        raise FrameError(msg)
    ordered = sorted(paths, key=_natural)
    return FrameSource(name, None, len(ordered), lambda: _read_images(ordered))


def _read_images(paths: list[Path]) -> Frames:
    for path in paths:
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if image is None:
            msg = f"Expected an image, found a file that cannot be decoded: {path}"
            raise FrameError(msg)
        yield path.name, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _open_video(path: Path) -> FrameSource:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                msg = f"Expected a video, found a file without pictures: {path}"
                raise FrameError(msg)
            stream = container.streams.video[0]
            return FrameSource(
                path.stem, stream.average_rate, stream.frames or None, lambda: _read_video(path)
            )
    except av.FFmpegError as error:
        msg = f"Expected a video file, found one that cannot be opened: {path} ({error.strerror})"
        raise FrameError(msg) from error


def _read_video(path: Path) -> Frames:
    number = -1
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                yield f"{number:06d}", np.ascontiguousarray(upright)
    except av.FFmpegError as error:
        msg = f"{path} is damaged after frame {number} ({error.strerror})"
        raise FrameError(msg) from error
    if number < 0:
        msg = f"Expected a video, found a file without a single frame: {path}"
        raise FrameError(msg)


def _ahead(frames: Frames, number: int) -> Iterator[NamedFrame]:
    """Yield frames while a thread reads at most ``number`` that have not been asked for."""
    pool = ThreadPoolExecutor(1, "vodet-frames")
    try:
        waiting = deque(pool.submit(next, frames, None) for _ in range(number))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, frames, None))
            yield item
    finally:  # also where the reader of these frames stops early
        pool.shutdown(cancel_futures=True)
        frames.close()


def _of_one_size(frames: Iterator[NamedFrame]) -> Iterator[NamedFrame]:
    expected = None
    for name, frame in frames:
        expected = expected or frame.shape[:2]
        if frame.shape[:2] != expected:
            msg = (
                f"Expected all frames to be of one size, {expected} (height, width) as the first, "
                f"found {frame.shape[:2]} in frame {name}."
            )
            raise FrameError(msg)
        yield name, frame
