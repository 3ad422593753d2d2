"""Frames to a video file that plays in a browser."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from vodet.errors import FrameError


class VideoWriter:
    """Writes an MP4 file: H.264, yuv420p, its index in front; complete or not at all.

    Frames of an odd height or width get their last row or column twice, as H.264 needs it.

    Args:
        path: The file; its folder is made.
        fps: Frames per second.

    Example:
        ::

            with VideoWriter("out.mp4", Fraction(30000, 1001)) as video:
                video.write(frame)  # uint8 RGB [H, W, 3]
    """

    def __init__(self, path: str | Path, fps: Fraction | float | int) -> None:
        self.path = Path(path)
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._fps = Fraction(fps).limit_denominator(1001)  # as in 30000/1001
        self._stream: VideoStream | None = None

    def __enter__(self) -> VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        options = {"movflags": "+faststart"}
        self._container = av.open(str(self._partial), "w", format="mp4", options=options)
        return self

    def write(self, frame: np.ndarray) -> None:
        """Add a frame.

        Raises:
            FrameError: If it is not uint8 ``[H, W, 3]`` or not of the size of the first.
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
        if self._stream is None:
            self._stream = self._add_stream(*even.shape[:2])
        picture = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        self._container.mux(self._stream.encode(picture))

    def _add_stream(self, height: int, width: int) -> VideoStream:
        stream = self._container.add_stream("libx264", rate=self._fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast"}
        # Said in the file, or players guess the colours from the size.
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = ColorRange.MPEG
        return stream

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            try:
                if kind is None:
                    self._finish()
            finally:
                self._container.close()
            if kind is None:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self._stream is None:
            msg = f"Expected at least one frame for {self.path}, found none."
            raise FrameError(msg)
        self._container.mux(self._stream.encode(None))
