"""Small videos, as vodet and as other programs write them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from vodet.inference.writing import VideoWriter


def picture(value: int = 0, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """Red above, of the given green; blue below."""
    frame = np.zeros((*size, 3), np.uint8)
    frame[: size[0] // 2] = [220, value, 10]
    frame[size[0] // 2 :] = [10, value, 220]
    return frame


def noise(count: int, size: tuple[int, int] = (64, 96)) -> list[np.ndarray]:
    """Frames that do not compress, so that damage hits each of them."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), np.uint8) for _ in range(count)]


def write_video(path: Path, frames: int = 30) -> Path:
    with VideoWriter(path, Fraction(30000, 1001)) as video:
        for number in range(frames):
            video.write(picture(number * 4))
    return path


def write_image(path: Path, frame: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


def encode(
    path: Path,
    frames: list[np.ndarray],
    codec: str,
    *,
    times: list[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    **attributes: Any,
) -> Path:
    """Write frames with FFmpeg; ``times`` are in units of the time base."""
    with av.open(str(path), "w", options=options or {}) as container:
        height, width = frames[0].shape[:2]
        stream = container.add_stream(
            codec, rate=1 / time_base, time_base=time_base, width=width, height=height
        )
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = 1  # every frame can be decoded alone
        for name, value in attributes.items():
            setattr(stream.codec_context, name, value)
        for number, frame in enumerate(frames):
            encoded = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pix_fmt)
            encoded.pts, encoded.time_base = times[number] if times else number, time_base
            container.mux(stream.encode(encoded))
        container.mux(stream.encode(None))
    return path
