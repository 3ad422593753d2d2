"""Decodes as many frames of a video file as possible, and reports missing and damaged frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vodet.errors import FrameError
from vodet.files import open_file
from vodet.inference.reading import Frames, FrameSource, NamedFrame
from vodet.pictures import MAX_PIXELS

Matrix = tuple[tuple[int, int], tuple[int, int]]

# FFmpeg's names of the formats whose headers give the length of a video. For other formats, FFmpeg
# estimates the length.
_LISTS_FRAMES = "mov,mp4,m4a,3gp,3g2,mj2"
_COUNTS_FRAMES = "avi"
_SAYS_DURATION = {"flv", "matroska,webm"}


def open_video(name: str, path: Path) -> FrameSource:
    """Open a video file. Its frames are rotated and mirrored for display, as the file specifies.

    Args:
        name: Name of the video and of its output files.
        path: The file.

    Raises:
        FrameError: If FFmpeg cannot open the file, or the file has no video.
    """
    faults: list[str] = []
    with _opened(path) as (_, stream):
        return FrameSource(
            name,
            stream.average_rate or stream.guessed_rate,
            stream.frames or None,
            lambda: _read(path, faults),
            pixel_aspect=_pixel_aspect(path, stream),
            time_base=stream.time_base,
            faults=faults,
        )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a regular file; turn every exception into an error that names the file."""
    try:
        # FFmpeg must not open other files or connections, which a playlist may name.
        options = {"protocol_whitelist": "none"}
        with open_file(path) as file, av.open(file, "r", options=options) as container:
            yield container, _video_stream(container, path)
    except FrameError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        msg = f"{path}: expected a video file, found a file that cannot be read: {reason}."
        raise FrameError(msg) from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the first video stream that is not a cover picture."""
    streams = container.streams.video
    stream = next((s for s in streams if not s.disposition & Disposition.attached_pic), None)
    if stream is None:
        found = "only a cover picture" if streams else "a file without a video stream"
        msg = f"{path}: expected a video, found {found}."
        raise FrameError(msg)
    if stream.width * stream.height > MAX_PIXELS:
        msg = (
            f"{path}: expected frames of at most {MAX_PIXELS:,} pixels, found {stream.width} x "
            f"{stream.height}. Scale the video down first."
        )
        raise FrameError(msg)
    return stream


def _pixel_aspect(path: Path, stream: VideoStream) -> Fraction:
    """Return the width of a pixel divided by its height when the video is shown upright."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if aspect == 1:
        return aspect
    frame = next(_decoded(path, _Losses(), is_careful=True), None)
    return 1 / aspect if frame and _swaps_sides(_display_matrix(frame)) else aspect


@dataclass
class _Losses:
    """Counts what was lost or damaged when a video file was read."""

    packets: int = 0  # packets that were read; nearly all hold one frame
    damaged: int = 0  # packets that could not be decoded
    first: int = 0  # frames before the first damaged packet
    blemished: int = 0  # decoded frames with damaged parts
    expected: int | None = None  # number of frames, from the header
    seconds: tuple[float, float] = 0.0, 0.0  # duration, from the header and as found
    tolerance: float = 1.0  # in seconds; some files do not say how long the last frame is shown
    stopped: str = ""  # why the rest of the file cannot be read

    def texts(self, path: Path, count: int) -> Iterator[str]:
        if self.stopped:
            yield (
                f"{path}: expected more frames after frame {count - 1}, found that the rest of the "
                f"file cannot be read: {self.stopped}."
            )
        if self.damaged:
            yield (
                f"{path}: damaged packets: {self.damaged}, the first after {self.first} frames; "
                f"decoded frames: {count}."
            )
        if self.blemished:
            yield f"{path}: decoded frames with damaged parts: {self.blemished}."
        if self.expected is not None and self.expected > count:
            yield (
                f"{path}: expected {self.expected} frames from its header, found {count}. The "
                "file is cut short or damaged."
            )
        expected, found = self.seconds
        if expected - found > self.tolerance:
            yield (
                f"{path}: expected {expected:.1f} seconds from its header, found {found:.1f} "
                f"({count} frames). The file is cut short or damaged."
            )


def _read(path: Path, faults: list[str]) -> Frames:
    """Yield all frames that can be decoded, then report missing and damaged ones in ``faults``."""
    count = 0
    start = rotation = None
    for is_careful in (False, True):
        losses = _Losses()
        for number, frame in enumerate(_decoded(path, losses, is_careful=is_careful)):
            if number < count:  # already yielded by the first attempt
                continue
            start = frame.pts if start is None else start
            if rotation != frame.rotation:  # the matrix is slow to read and rarely changes
                rotation, matrix = frame.rotation, _display_matrix(frame)
            yield NamedFrame(f"{number:06d}", _upright(frame, matrix), _seconds(frame, start))
            count += 1
        if not losses.damaged and count >= losses.packets:
            break
    if not count:
        msg = f"{path}: expected a video, found no frame that can be decoded."
        raise FrameError(msg)
    faults += losses.texts(path, count)


def _decoded(path: Path, losses: _Losses, *, is_careful: bool) -> Iterator[VideoFrame]:
    """Yield the decoded frames of a file, and record in ``losses`` what cannot be decoded.

    Args:
        path: The file.
        losses: Updated while the file is read.
        is_careful: Whether to decode one frame at a time and skip damaged packets. Otherwise,
            several frames are decoded at once. This is faster, but could also lose intact frames
            near a damaged frame, so decoding stops at the first damaged packet.
    """
    with _opened(path) as (container, stream):
        stream.thread_type = "SLICE" if is_careful else "AUTO"
        count = 0
        for packet in _packets(container, stream, losses):
            try:
                frames = stream.decode(packet)
            except av.FFmpegError:
                losses.first = losses.first if losses.damaged else count
                losses.damaged += 1
                if not is_careful:
                    return
                continue
            for frame in frames:
                count += 1
                losses.blemished += frame.is_corrupt
                frame.time_base = stream.time_base  # missing in the last frames
                yield frame
        if container.format.name == _LISTS_FRAMES:
            losses.expected = sum(not entry.is_discard for entry in stream.index_entries)


def _packets(
    container: InputContainer, stream: VideoStream, losses: _Losses
) -> Iterator[Packet | None]:  # type: ignore[type-arg]  # not generic before av 18
    """Yield the packets of a stream, then None, which makes the decoder return its last frames.

    Read errors and the duration of the video are recorded in ``losses``.
    """
    end = 0.0
    try:
        for packet in container.demux():
            if packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index and packet.size:
                losses.packets += not packet.is_discard
                yield packet
    except (av.FFmpegError, OSError) as error:
        losses.stopped = error.strerror or str(error)
    rate = stream.average_rate or Fraction(25)
    losses.tolerance = max(1.0, float(2 / rate))
    if container.format.name == _COUNTS_FRAMES:
        losses.seconds = float(stream.frames / rate), end
    elif container.format.name in _SAYS_DURATION and container.duration:
        losses.seconds = container.duration / av.time_base, end
    yield None


def _seconds(frame: VideoFrame, start: int | None) -> Fraction | None:
    if frame.pts is None or start is None or frame.time_base is None:
        return None
    return (frame.pts - start) * frame.time_base


def _upright(frame: VideoFrame, matrix: Matrix) -> np.ndarray:
    """Return the pixels of a frame, rotated and mirrored for display."""
    pixels = frame.to_ndarray(format="rgb24")
    (a, b), (c, d) = matrix  # a pixel at (x, y) is shown at (a x + c y, b x + d y)
    if _swaps_sides(matrix):
        pixels, to_right, down = pixels.swapaxes(0, 1), c, b
    else:
        to_right, down = a, d
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if to_right < 0 else 1])


def _display_matrix(frame: VideoFrame) -> Matrix:
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return (1, 0), (0, 1)
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
    return (a, b), (c, d)


def _swaps_sides(matrix: Matrix) -> bool:
    return abs(matrix[0][1]) > abs(matrix[0][0])
