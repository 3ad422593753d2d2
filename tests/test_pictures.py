from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from vodet.pictures import PictureHeader, read_header, turn_upright

ORIENTATION = 0x0112


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def encode(rgb: np.ndarray, kind: str, orientation: object = None, **options: object) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
        exif[0x010E] = "a description"
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_and_orientation(rgb: np.ndarray, kind: str, orientation: int) -> None:
    data = encode(rgb, kind, orientation)

    header = read_header(data)

    assert header == PictureHeader((48, 64), orientation)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        assert header.upright_size == (upright.height, upright.width)
        pixels = np.asarray(image)
        assert np.array_equal(turn_upright(pixels, orientation), np.asarray(upright))


@pytest.mark.parametrize("options", [{"progressive": True}, {"quality": 100, "comment": b"x" * 9}])
def test_jpegs_of_all_kinds(rgb: np.ndarray, options: dict[str, object]) -> None:
    assert read_header(encode(rgb, "JPEG", 6, **options)) == PictureHeader((48, 64), 6)
    plain = encode(rgb, "JPEG")
    assert read_header(plain) == PictureHeader((48, 64))
    filled = plain[:2] + b"\xff\xff" + plain[2:]
    assert read_header(filled) == PictureHeader((48, 64))
    second = plain.index(b"\xff\xdb")  # the decoder wants a segment at the start
    rubbish = plain[:second] + b"abc\xff\x00" + plain[second:]
    assert read_header(rubbish) == PictureHeader((48, 64))
    assert cv2.imdecode(np.frombuffer(rubbish, np.uint8), cv2.IMREAD_COLOR) is not None


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_orientations_that_there_are_not(rgb: np.ndarray, orientation: int) -> None:
    assert read_header(encode(rgb, "JPEG", orientation)) == PictureHeader((48, 64))


def test_broken_exif_turns_nothing(rgb: np.ndarray) -> None:
    data = encode(rgb, "JPEG", 6)
    start = data.index(b"Exif")
    for place in range(start, start + 40):
        broken = bytearray(data)
        broken[place] ^= 0xFF
        header = read_header(bytes(broken))
        assert header is not None
        assert header.stored_size == (48, 64)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_beginnings_have_no_header(rgb: np.ndarray, kind: str) -> None:
    data = encode(rgb, kind)
    end = data.index(b"\xff\xc0") + 8 if kind == "JPEG" else len(data) - 5
    assert all(read_header(data[:length]) is None for length in range(end))
    assert read_header(b"BM" + data) is None
