from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from vodet.errors import FrameError
from vodet.inference.reading import FrameSource, NamedFrame, open_source, open_sources
from vodet.inference.writing import VideoWriter


def picture(value: int = 0, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """Red above, of the given green; blue below."""
    frame = np.zeros((*size, 3), np.uint8)
    frame[: size[0] // 2] = [220, value, 10]
    frame[size[0] // 2 :] = [10, value, 220]
    return frame


def write_video(path: Path, frames: int = 30) -> Path:
    with VideoWriter(path, Fraction(30000, 1001)) as video:
        for number in range(frames):
            video.write(picture(number * 4))
    return path


def write_image(path: Path, frame: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


def test_video(tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "a b.mp4"))
    assert (source.name, source.fps, source.length) == ("a b", Fraction(30000, 1001), 30)
    names, frames = zip(*source, strict=True)
    assert names == tuple(f"{number:06d}" for number in range(30))
    for number, frame in enumerate(frames):
        assert np.abs(frame.astype(int) - picture(number * 4)).mean() < 5
    assert len(list(source)) == 30  # can be read again


@pytest.mark.parametrize(("codec", "suffix"), [("mp4v", "mp4"), ("XVID", "avi"), ("MJPG", "avi")])
def test_videos_of_another_program(tmp_path: Path, codec: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    written = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 3, (1920, 1080))
    for number in range(8):
        written.write(picture(number * 20, (1080, 1920))[..., ::-1])
    written.release()
    source = open_source(path)
    assert (source.fps, source.length) == (3, 8)
    frames = [frame for _, frame in source]
    assert [frame.shape for frame in frames] == [(1080, 1920, 3)] * 8
    for number, frame in enumerate(frames):
        assert np.abs(frame.astype(int) - picture(number * 20, (1080, 1920))).mean() < 5


@pytest.mark.parametrize(
    ("matrix", "turns"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
)
def test_display_rotation_is_applied(
    tmp_path: Path, matrix: tuple[int, int, int, int], turns: int
) -> None:
    """A phone held upright writes lying frames and says by a matrix how to turn them."""
    path = write_video(tmp_path / "a.mp4", 3)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44  # the 3 x 3 matrix of the track header, 16.16 fixed point
    a, b, c, d = (value << 16 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    _, frame = next(iter(open_source(path)))
    expected = np.rot90(picture(), turns)
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 5


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for name, value in [("f10.png", 100), ("f2.png", 20), ("f1.PNG", 10)]:
        write_image(tmp_path / "clip" / name, picture(value))
    (tmp_path / "clip" / "notes.txt").write_text("no image")
    (tmp_path / "clip" / "._f3.png").write_text("left behind by a file system")
    source = open_source(str(tmp_path / "clip"))
    assert (source.name, source.fps, source.length) == ("clip", None, 3)
    names, frames = zip(*source, strict=True)
    assert names == ("f1.PNG", "f2.png", "f10.png")
    assert [frame[0, 0, 1] for frame in frames] == [10, 20, 100]
    assert (frames[0] == picture(10)).all()


def test_glob_and_single_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/2.png", "a/10.png", "b/1.png", "b/1.txt"):
        write_image(tmp_path / name, picture()) if name.endswith("png") else (
            tmp_path / name
        ).write_text("")
    source = open_source(tmp_path / "*" / "*")
    assert source.name == tmp_path.name
    assert [name for name, _ in source] == ["2.png", "10.png", "1.png"]
    assert [name for name, _ in open_source(tmp_path / "a" / "1*.png")] == ["10.png"]
    assert [name for name, _ in open_source(tmp_path / "a" / "2.png")] == ["2.png"]
    monkeypatch.chdir(tmp_path)
    assert [name for name, _ in open_source("a/*.png")] == ["2.png", "10.png"]


def test_names_with_glob_characters_that_exist(tmp_path: Path) -> None:
    assert open_source(write_video(tmp_path / "clip[1].mp4", 2)).length == 2


def test_nothing_there(tmp_path: Path) -> None:
    for missing in ("none.mp4", "none/*.png"):
        with pytest.raises(FrameError, match=r"found nothing at .*none"):
            open_source(tmp_path / missing)
    with pytest.raises(FrameError, match=r"Expected images \(.bmp, .*found none"):
        open_source(tmp_path)
    write_video(tmp_path / "a.mp4", 1)
    with pytest.raises(FrameError, match="Name a video file"):
        open_source(tmp_path / "*.mp4")


def test_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"this is no video at all" * 100)
    with pytest.raises(FrameError, match=r"cannot be opened: .*a\.mp4"):
        open_source(tmp_path / "a.mp4")


def test_damaged_image_and_video(tmp_path: Path) -> None:
    write_image(tmp_path / "clip" / "1.png", picture())
    (tmp_path / "clip" / "2.png").write_bytes(b"")
    frames = iter(open_source(tmp_path / "clip"))
    next(frames)
    with pytest.raises(FrameError, match=r"cannot be decoded: .*2\.png"):
        next(frames)
    path = write_video(tmp_path / "a.mp4", 30)
    content = path.read_bytes()
    start = content.index(b"mdat") + 4
    path.write_bytes(content[:start] + b"\xff" * (len(content) - start))
    with pytest.raises(FrameError, match=r"a\.mp4 is damaged after frame|without a single frame"):
        list(open_source(path))


def test_unequal_sizes(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", picture())
    write_image(tmp_path / "2.png", picture(size=(32, 50)))
    with pytest.raises(FrameError, match=r"\(32, 48\) .*found \(32, 50\) in frame 2\.png"):
        list(open_source(tmp_path))


class Counted:
    """A source that counts how many frames have been read, and notes that it was closed."""

    def __init__(self, fails_at: int = 1000) -> None:
        self.read = 0
        self.closed = False
        self.fails_at = fails_at

    def source(self) -> FrameSource:
        return FrameSource("counted", None, None, self.frames, read_ahead=4)

    def frames(self) -> Iterator[NamedFrame]:
        try:
            while self.read < 100:
                self.read += 1
                if self.read == self.fails_at:
                    msg = "torn"
                    raise FrameError(msg)
                yield str(self.read), picture()
        finally:
            self.closed = True


def reader_threads() -> int:
    return sum(thread.name.startswith("vodet-frames") for thread in threading.enumerate())


def test_reading_never_runs_further_ahead_than_told() -> None:
    counted = Counted()
    most = 0
    for asked, _ in enumerate(counted.source(), start=1):
        time.sleep(0.002 if asked < 20 else 0)
        most = max(most, counted.read - asked)
    assert asked == 100
    assert most == 4
    assert reader_threads() == 0


def test_stopping_early_ends_the_thread() -> None:
    counted = Counted()
    for _ in counted.source():
        break
    assert counted.closed
    assert counted.read <= 5
    assert reader_threads() == 0


def test_error_of_the_reader_reaches_the_consumer_after_the_good_frames() -> None:
    counted = Counted(fails_at=7)
    received = []
    with pytest.raises(FrameError, match="torn"):
        received += [name for name, _ in counted.source()]
    frames = iter(counted.source())
    counted.read = 0
    for _ in range(6):
        received.append(next(frames)[0])
    with pytest.raises(FrameError, match="torn"):
        next(frames)
    assert received == ["1", "2", "3", "4", "5", "6"]
    assert reader_threads() == 0


def test_a_folder_of_videos_is_several(tmp_path: Path) -> None:
    for name in ("b2", "b10", "a"):
        with VideoWriter(tmp_path / f"{name}.mp4", 5) as video:
            for grey in (10, 20):
                video.write(np.full((32, 48, 3), grey, np.uint8))
    for source in (tmp_path, tmp_path / "*.mp4"):
        assert [video.name for video in open_sources(source)] == ["a", "b2", "b10"]
    (one,) = open_sources(tmp_path / "a.mp4")
    assert len(list(one)) == 2
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 8, 3), np.uint8))
    (images,) = open_sources(tmp_path)
    assert [name for name, _ in images] == ["1.png"]
