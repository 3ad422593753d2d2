from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vodet.errors import FrameError
from vodet.inference.writing import VideoWriter

COLORS = [(200, 30, 40), (20, 180, 60), (30, 50, 210), (240, 230, 20)]


def quarters(height: int, width: int) -> np.ndarray:
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 2, : width // 2] = COLORS[0]
    frame[: height // 2, width // 2 :] = COLORS[1]
    frame[height // 2 :, : width // 2] = COLORS[2]
    frame[height // 2 :, width // 2 :] = COLORS[3]
    return frame


def write(path: Path, frames: list[np.ndarray], error: Exception | None = None) -> None:
    with VideoWriter(path, 25) as video:
        for frame in frames:
            video.write(frame)
        if error:
            raise error


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (720, 1280)])
def test_what_is_decoded_is_what_was_written(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    path = tmp_path / "new" / "a.mp4"
    with VideoWriter(path, 29.97) as video:
        for _ in range(5):
            video.write(quarters(*size))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.average_rate == Fraction(2997, 100)
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    assert [frame.shape for frame in frames] == [(height + height % 2, width + width % 2, 3)] * 5
    for x, y, color in zip((1, 3, 1, 3), (1, 1, 3, 3), COLORS, strict=True):
        pixel = frames[-1][y * height // 4, x * width // 4].astype(int)
        assert np.abs(pixel - color).max() <= 4
    if height % 2:
        assert np.abs(frames[0][-1].astype(int) - frames[0][-2]).max() <= 4
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]


def test_index_is_in_front_and_colours_are_named(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25) as video:
        video.write(quarters(64, 64))
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (1, 1)  # BT.709, 16 to 235


def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("old")
    with pytest.raises(KeyError):
        write(path, [quarters(64, 64)], KeyError())
    with pytest.raises(FrameError, match="at least one frame"):
        write(path, [])
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    "other", [quarters(64, 66), quarters(63, 64), quarters(64, 64) / 2, quarters(64, 64)[..., 0]]
)
def test_frames_of_another_kind_are_refused(tmp_path: Path, other: np.ndarray) -> None:
    with pytest.raises(FrameError, match=r"uint8 frames \(64, 64, 3\)"):
        write(tmp_path / "a.mp4", [quarters(64, 64), other])
    assert list(tmp_path.iterdir()) == []
