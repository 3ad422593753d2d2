from __future__ import annotations

import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from inference.made_videos import picture, write_image
from vodet.errors import FrameError
from vodet.inference.reading import FrameSource, NamedFrame
from vodet.inference.sources import open_source


def test_damaged_image(tmp_path: Path) -> None:
    write_image(tmp_path / "clip" / "1.png", picture())
    (tmp_path / "clip" / "2.png").write_bytes(b"")
    frames = iter(open_source(tmp_path / "clip"))
    next(frames)
    with pytest.raises(FrameError, match=r"2\.png.*cannot be decoded"):
        next(frames)


def test_images_of_an_impossible_size(tmp_path: Path) -> None:
    header = struct.pack(">II5B", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(FrameError, match=r"1\.png"):
        list(open_source(tmp_path / "1.png"))


def test_images_are_upright(tmp_path: Path) -> None:
    picture_of_halves = np.zeros((32, 48, 3), np.uint8)
    picture_of_halves[:16] = 255
    jpeg = cv2.imencode(".jpg", picture_of_halves)[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # turn right
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "1.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:])
    (frame,) = open_source(tmp_path / "1.jpg")
    assert frame.pixels.shape == (48, 32, 3)
    assert frame.pixels[:, 20:].min() > 200
    assert frame.pixels[:, :12].max() < 50


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
                yield NamedFrame(str(self.read), picture())
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
        received += [frame.name for frame in counted.source()]
    frames = iter(counted.source())
    counted.read = 0
    for _ in range(6):
        received.append(next(frames).name)
    with pytest.raises(FrameError, match="torn"):
        next(frames)
    assert received == ["1", "2", "3", "4", "5", "6"]
    assert reader_threads() == 0
