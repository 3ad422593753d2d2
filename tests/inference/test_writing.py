from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vodet.errors import FrameError, OutputError
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


def read_back(path: Path) -> tuple[list[Fraction], Fraction, Fraction]:
    """Return the times of the frames, the length in seconds, and the shape of a pixel."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [frame.pts * frame.time_base for frame in container.decode(stream)]
        length = stream.duration * stream.time_base
        return times, length, stream.sample_aspect_ratio


@pytest.mark.parametrize("fps", [Fraction(1, 7), 0.5, Fraction(1, 3600), 1, 12.5, 29.97, 240, 5000])
def test_rates(tmp_path: Path, fps: float) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps) as video:
        for _ in range(4):
            video.write(quarters(64, 64))
    times, length, aspect = read_back(tmp_path / "a.mp4")
    assert [float(time * Fraction(fps)) for time in times] == pytest.approx([0, 1, 2, 3], rel=1e-3)
    assert float(length * Fraction(fps)) == pytest.approx(4, rel=2e-3)
    assert aspect == 1


def test_times_and_the_shape_of_pixels_are_written(tmp_path: Path) -> None:
    times = [Fraction(tenths, 10) for tenths in (0, 1, 3, 23, 24)]
    options = {"pixel_aspect": Fraction(16, 11), "time_base": Fraction(1, 12800)}
    with VideoWriter(tmp_path / "a.mp4", 5, **options) as video:
        for time in times:
            video.write(quarters(64, 64), time)
    found, length, aspect = read_back(tmp_path / "a.mp4")
    assert found == times
    assert length == pytest.approx(2.6, abs=0.11)
    assert aspect == Fraction(16, 11)


def test_times_that_do_not_grow(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 5, time_base=Fraction(1, 10)) as video:
        for time in (0, 1, 1, 0, None, 2):
            video.write(quarters(64, 64), None if time is None else Fraction(time))
    times = read_back(tmp_path / "a.mp4")[0]
    assert len(times) == 6
    assert times == sorted(set(times))


def test_times_that_begin_again(tmp_path: Path) -> None:
    times = [Fraction(number, 25) for number in range(6)]
    with VideoWriter(tmp_path / "a.mp4", 25, time_base=Fraction(1, 90_000)) as video:
        for time in times[:3] * 2:
            video.write(quarters(64, 64), time)
    assert read_back(tmp_path / "a.mp4")[0] == times


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/a\.mp4.*(exists|[Nn]ot a directory)"):
        write(tmp_path / "file" / "a.mp4", [quarters(64, 64)])


def test_a_size_that_cannot_be_encoded(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.mp4"):
        write(tmp_path / "a.mp4", [np.zeros((2, 40_000, 3), np.uint8)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [0, 0.01, 0.5, 0.99])
def test_a_full_disk(tmp_path: Path, room: float) -> None:
    """A limit on the size of a file, a part of what is needed, stands for the disk."""
    code = f"""
import os
import resource
import numpy as np
from vodet.errors import OutputError
from vodet.inference.writing import VideoWriter

rng = np.random.default_rng(0)
frames = rng.integers(0, 255, (20, 96, 96, 3), np.uint8)

def write():
    with VideoWriter("a.mp4", 5) as video:
        for frame in frames:
            video.write(frame)

write()
limit = int({room} * os.path.getsize("a.mp4"))
os.remove("a.mp4")
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write()
except OutputError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "a.mp4" in done.stdout
    assert "too large" in done.stdout
    assert list(tmp_path.iterdir()) == []
