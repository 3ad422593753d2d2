"""Writes frames to a video file that plays in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from vodet.errors import FrameError, OutputError
from vodet.files import replacing


class VideoWriter:
    """Writes an MP4 file (H.264, yuv420p) that browsers can play while they download it.

    The file appears only when it is complete. Frames with an odd height or width are padded by
    repeating the last row or column, since the encoder needs even sizes.

    Args:
        path: The file; its folder is created if needed.
        fps: Frames per second, for frames that are written without a time.
        pixel_aspect: Width of a pixel divided by its height when the video is shown.
        time_base: Unit of the timestamps in the file, in seconds; ``1 / fps`` by default.

    Example:
        ::

            with VideoWriter("out.mp4", Fraction(30000, 1001)) as video:
                video.write(frame)  # uint8 RGB [H, W, 3]
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | float | int,
        *,
        pixel_aspect: Fraction = Fraction(1),
        time_base: Fraction | None = None,
    ) -> None:
        self.path = Path(path)
        self._period = _period(fps)
        self._pixel_aspect = pixel_aspect
        self._time_base = time_base or self._period
        self._stream: VideoStream | None = None
        self._step = max(1, round(self._period / self._time_base))
        self._last = -self._step  # time of the last frame, in units of the time base
        self._shift = 0  # added to the times of all further frames
        self._file = self._opened()

    def __enter__(self) -> VideoWriter:
        self._file.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.__exit__(kind, error, trace)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        # With a coarse unit for the edit list, the last frames of a fast video are not shown.
        options = {"movflags": "+faststart", "movie_timescale": "90000"}
        with replacing(self.path) as partial, _naming(self.path):
            name = str(partial.absolute())  # FFmpeg takes a relative name with a colon for a URL
            with av.open(name, "w", format="mp4", options=options) as self._container:
                yield
                if self._stream is None:
                    msg = f"Expected at least one frame for {self.path}, found none."
                    raise FrameError(msg)
                self._encode(self._stream, None)

    def write(self, frame: np.ndarray, time: Fraction | None = None) -> None:
        """Add a frame.

        Args:
            frame: uint8 RGB ``[H, W, 3]``.
            time: Time at which the frame is shown, in seconds; by default ``1 / fps`` after the
                previous frame.

        Raises:
            FrameError: If the frame is not uint8 ``[H, W, 3]`` or differs in size from the first.
            OutputError: If the file cannot be written.
        """
        if self._stream is None:
            self._shape = (*frame.shape[:2], 3)
        if frame.shape != self._shape or frame.dtype != np.uint8:
            msg = (
                f"Expected uint8 frames {self._shape} (height, width, RGB) for {self.path}, found "
                f"{frame.dtype} {frame.shape}."
            )
            raise FrameError(msg)
        height, width, _ = self._shape
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        with _naming(self.path):
            if self._stream is None:
                self._stream = self._add_stream(*even.shape[:2])
            picture = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            picture.pts, picture.time_base = self._place(time), self._time_base
            self._encode(self._stream, picture)

    def _encode(self, stream: VideoStream, picture: av.VideoFrame | None) -> None:
        for packet in stream.encode(picture):
            packet.duration = self._step  # only counts for the last frame, which has no successor
            self._container.mux(packet)

    def _place(self, time: Fraction | None) -> int:
        """Return the timestamp of a frame in units of the time base, later than the previous one.

        If the times jump back, as in joined MPEG-TS files, this frame and all later frames are
        shifted so that they follow the earlier frames.
        """
        if time is None:
            place = self._last + self._step
        else:
            place = round(time / self._time_base) + self._shift
            if place < self._last:
                self._shift += self._last + self._step - place
                place = self._last + self._step
            place = max(place, self._last + 1)
        self._last = place
        return place

    def _add_stream(self, height: int, width: int) -> VideoStream:
        stream = self._container.add_stream(
            "libx264", rate=1 / self._period, time_base=self._time_base, width=width, height=height
        )
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast"}
        # Without a colour space in the file, players guess it from the frame size.
        context = stream.codec_context
        context.max_b_frames = 0  # the last B-frame could be timed beyond the end of the file
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = ColorRange.MPEG
        context.sample_aspect_ratio = self._pixel_aspect
        return stream


def _period(fps: Fraction | float | int) -> Fraction:
    """Return the time between frames in seconds, as a simple fraction: 1001/30000 for 29.97 fps."""
    rate = Fraction(fps)
    if rate < 1:
        return (1 / rate).limit_denominator(1001)
    return 1 / rate.limit_denominator(1001)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn errors of the encoder into an error that names the file."""
    try:
        yield
    except (av.FFmpegError, OverflowError) as error:
        msg = f"Cannot write {path}: {getattr(error, 'strerror', None) or error}."
        raise OutputError(msg) from error
