from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from vodet.errors import FrameError
from vodet.inference.reading import open_images

RGB = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def read(path: Path) -> np.ndarray:
    (frame,) = open_images("video", [path])
    return frame.pixels


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "jpg"])
def test_each_format_is_read_upright(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    exif = Image.Exif()
    if suffix in ("png", "jpg"):
        exif[0x0112] = 6
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(RGB).save(path, exif=exif, **options)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = read(path)
    assert found.shape == ((64, 48, 3) if exif else (48, 64, 3))
    np.testing.assert_allclose(found, expected, atol=1)


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_animations_and_pages_are_not_shortened_to_the_first(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"several.{suffix}"
    first, *others = (Image.fromarray(np.roll(RGB, number, 1)) for number in range(3))
    first.save(path, save_all=True, append_images=others)
    with pytest.raises(FrameError, match=rf"several\.{suffix}.* 3 pictures"):
        read(path)


def test_a_jpeg_with_a_second_picture_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    picture = Image.fromarray(RGB)
    picture.save(path, "MPO", save_all=True, append_images=[picture.resize((8, 8))])
    assert read(path).shape == (48, 64, 3)


def test_a_jpeg_with_a_damaged_middle_is_named(tmp_path: Path) -> None:
    _, encoded = cv2.imencode(".jpg", RGB)
    data = bytearray(encoded.tobytes())
    middle = len(data) // 2
    data[middle : middle + 1000] = bytes(1000)
    path = tmp_path / "middle.jpg"
    path.write_bytes(data[: len(encoded) - 2] + b"\xff\xd9")
    with pytest.raises(FrameError, match=r"middle\.jpg: expected an image"):
        read(path)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    )


def tiff_that_claims(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (7, 5)).save(buffer, "TIFF")
    data = buffer.getvalue()
    for tag, old, new in ((256, 7, width), (257, 5, height)):
        for kind, code in ((3, "<HHIHH"), (4, "<HHII")):
            entry = struct.pack(code, tag, kind, 1, old, *([0] if kind == 3 else []))
            data = data.replace(entry, struct.pack("<HHII", tag, 4, 1, new))
    return data


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("big.png", png_that_claims(30000, 20000), r"20000 x 30000 .*268,435,456"),
        ("big.tiff", tiff_that_claims(30000, 20000), r"600000000 pixels"),
    ],
)
def test_a_picture_of_too_many_pixels_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, found: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(FrameError, match=found):
        read(path)
