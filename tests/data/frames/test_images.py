from __future__ import annotations

import io
import os
import struct
import zlib

import cv2
import fsspec
import numpy as np
import pytest
from PIL import Image

from vodet.data.frames.images import image_path, is_image_there, read_frame, reduction_for
from vodet.data.frames.resize import Letterbox, OriginalSize, Resize
from vodet.errors import FrameError
from vodet.pictures import turn_upright

SIZE = (48, 64)


@pytest.fixture
def rgb():
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    red = np.broadcast_to(ramp, SIZE)
    return np.stack([red, red[:, ::-1], np.full(SIZE, 30, np.uint8)], axis=2)


def encode(rgb, suffix):
    return cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()


def test_png_is_read_exactly_as_rgb(tmp_path, rgb):
    path = tmp_path / "a.png"
    path.write_bytes(encode(rgb, ".png"))

    assert np.array_equal(read_frame(path, 1, SIZE), rgb)
    assert np.array_equal(read_frame(path, 1, SIZE, reduction=2), rgb)  # JPEG only


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_jpeg_at_a_reduced_scale(tmp_path, rgb, reduction):
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(rgb, ".jpg"))

    frame = read_frame(path, 1, SIZE, reduction)

    height, width = SIZE[0] // reduction, SIZE[1] // reduction
    expected = rgb.reshape(height, reduction, width, reduction, 3).mean((1, 3))
    assert frame.shape == (height, width, 3)
    assert np.abs(frame - expected).max() < 12


def test_fsspec_url(rgb):
    with fsspec.open("memory://frames/v/a.png", "wb") as file:
        file.write(encode(rgb, ".png"))

    assert np.array_equal(read_frame(image_path("memory://frames/", "v/a.png"), 1, SIZE), rgb)
    with pytest.raises(FrameError, match=r"memory://frames/v/b.png \(image id 9\).*no such file"):
        read_frame(image_path("memory://frames", "v/b.png"), 9, SIZE)


def save_turned(path, rgb, orientation):
    """Write a picture such that it looks as given once its EXIF orientation is applied."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {6: 8, 8: 6}.get(orientation, orientation)
    Image.fromarray(turn_upright(rgb, back)).save(path, exif=exif, quality=95)


@pytest.mark.parametrize("reduction", [1, 2, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_at_every_scale(tmp_path, rgb, orientation, reduction):
    save_turned(tmp_path / "turned.jpg", rgb, orientation)
    Image.fromarray(rgb).save(tmp_path / "upright.jpg", quality=95)

    frame = read_frame(tmp_path / "turned.jpg", 1, SIZE, reduction)

    upright = read_frame(tmp_path / "upright.jpg", 1, SIZE, reduction)
    assert frame.shape == upright.shape
    assert np.abs(frame.astype(int) - upright).max() < 16


def test_exif_orientation_of_a_png(tmp_path, rgb):
    path = tmp_path / "turned.png"
    save_turned(path, rgb, 6)

    assert np.array_equal(read_frame(path, 1, SIZE), rgb)
    stored = read_frame(path, 1, SIZE[::-1], exif="ignore")
    assert np.array_equal(stored, turn_upright(rgb, 8))


@pytest.mark.parametrize(("exif", "other"), [("apply", "ignore"), ("ignore", "apply")])
def test_a_size_that_fits_only_the_other_way_names_the_option(tmp_path, rgb, exif, other):
    path = tmp_path / "turned.jpg"
    save_turned(path, rgb, 6)
    sizes = {"apply": SIZE, "ignore": SIZE[::-1]}

    assert read_frame(path, 1, sizes[exif], exif=exif).shape[:2] == sizes[exif]
    expected = rf"orientation is 6: .*stored.* 64 x 48, .*upright.* 48 x 64.*data\.exif={other}"
    with pytest.raises(FrameError, match=expected):
        read_frame(path, 1, sizes[other], exif=exif)
    with pytest.raises(FrameError, match=r"found \d\d x \d\d\. Use the images that were annotated"):
        read_frame(path, 1, (47, 64), exif=exif)


def png_of_size(width, height):
    """Return a PNG whose header promises a size; its pixels are those of a small one."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = encode(np.zeros((*SIZE, 3), np.uint8), ".png")
    return data[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


@pytest.mark.parametrize("side", [20_000, 50_000, 2**31 - 1])
def test_huge_pictures_are_refused_by_their_header(tmp_path, monkeypatch, side):
    path = tmp_path / "huge.png"
    path.write_bytes(png_of_size(side, side))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))

    with pytest.raises(FrameError, match=rf"48 x 64 pixels.*as annotated, found {side} x {side}"):
        read_frame(path, 42, SIZE)
    with pytest.raises(FrameError, match=rf"at most 268,435,456 pixels, found {side} x {side}"):
        read_frame(path, 42, (side, side))


def test_what_the_decoder_refuses_is_damaged(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_of_size(16_000, 16_000))

    with pytest.raises(FrameError, match=r"a\.png \(image id 42\): .*damaged"):
        read_frame(path, 42, (16_000, 16_000))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (os.mkfifo, "named pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "device"),
        (lambda path: path.symlink_to(path.name), "symbolic links"),
    ],
)
def test_special_files_are_not_opened(tmp_path, make, found):
    make(tmp_path / "a.jpg")

    with pytest.raises(FrameError, match=rf"a\.jpg \(image id 42\): .*{found}"):
        read_frame(tmp_path / "a.jpg", 42, SIZE)


@pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 5000 + ".jpg"])
def test_names_that_no_file_can_have(tmp_path, name):
    with pytest.raises(FrameError, match=r"image id 42.*expected a readable image"):
        read_frame(tmp_path / name, 42, SIZE)


def test_windows_separators_are_named_where_the_file_is_missing(tmp_path):
    with pytest.raises(FrameError, match=r"no such file.*Windows.*`\\`.*use `/`"):
        read_frame(image_path(tmp_path, "val\\0.jpg"), 42, SIZE)


def test_a_store_that_there_is_not(tmp_path):
    del tmp_path
    with pytest.raises(FrameError, match=r"nostore://a/b\.jpg \(image id 42\).*nostore"):
        read_frame("nostore://a/b.jpg", 42, SIZE)
    with pytest.raises(FrameError, match=r"nostore://a/b\.jpg.*nostore"):
        is_image_there("nostore://a/b.jpg")


def test_four_inks_are_read_as_viewers_show_them(tmp_path):
    path = tmp_path / "inks.jpg"
    picture = Image.new("RGB", SIZE[::-1], (200, 40, 90)).convert("CMYK")
    picture.save(path, quality=95)

    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.abs(read_frame(path, 1, SIZE).astype(int) - expected).max() < 12


def test_palettes_and_animations_give_their_first_picture(tmp_path, rgb):
    first = Image.fromarray(rgb).quantize(64)
    first.save(tmp_path / "palette.png", transparency=3)
    second = Image.new("RGB", SIZE[::-1])
    Image.fromarray(rgb).save(tmp_path / "moving.png", save_all=True, append_images=[second])

    found = read_frame(tmp_path / "palette.png", 1, SIZE)
    assert np.array_equal(found, np.asarray(first.convert("RGB")))
    assert np.array_equal(read_frame(tmp_path / "moving.png", 1, SIZE), rgb)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_grey_images_get_three_channels(tmp_path, suffix):
    path = tmp_path / f"grey{suffix}"
    path.write_bytes(cv2.imencode(suffix, np.full(SIZE, 77, np.uint8))[1].tobytes())

    assert np.array_equal(read_frame(path, 1, SIZE), np.full((*SIZE, 3), 77))


def test_sixteen_bits_become_eight(tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(cv2.imencode(".png", np.full(SIZE, 77 * 256 + 9, np.uint16))[1].tobytes())

    assert np.array_equal(read_frame(path, 1, SIZE), np.full((*SIZE, 3), 77))


def test_alpha_is_dropped(tmp_path, rgb):
    path = tmp_path / "alpha.png"
    path.write_bytes(encode(np.dstack([np.full(SIZE, 9, np.uint8), rgb]), ".png"))

    assert np.array_equal(read_frame(path, 1, SIZE), rgb)


def test_missing(tmp_path):
    with pytest.raises(FrameError, match=r"none.jpg \(image id 42\): expected an image, found no"):
        read_frame(tmp_path / "none.jpg", 42, SIZE)


def test_unreadable(tmp_path):
    with pytest.raises(FrameError, match=r"image id 42\): expected a readable image.*directory"):
        read_frame(tmp_path, 42, SIZE)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_truncated(tmp_path, suffix, part):
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    data = encode(noise, suffix)
    path = tmp_path / f"cut{suffix}"
    for cut in (data[: int(part * len(data))], data[: int(part * len(data))] + b"\0" * 5000):
        path.write_bytes(cut)
        with pytest.raises(FrameError, match=r"cut.* \(image id 42\): expected an intact image.*t"):
            read_frame(path, 42, SIZE)


def test_a_truncated_jpeg_with_a_whole_preview_inside(tmp_path, rgb):
    preview = encode(rgb[::4, ::4], ".jpg")
    segment = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview
    data = encode(rgb, ".jpg")
    data = data[:2] + segment + data[2:]
    path = tmp_path / "preview.jpg"

    path.write_bytes(data + b"anything")
    assert read_frame(path, 1, SIZE).shape == (*SIZE, 3)
    path.write_bytes(data[:-40])
    with pytest.raises(FrameError, match="truncated"):
        read_frame(path, 1, SIZE)


@pytest.mark.parametrize(
    ("content", "found"), [(b"", "an empty file"), (b"<html>", "6 bytes starting with b'<html>'")]
)
def test_not_an_image(tmp_path, content, found):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(FrameError, match=rf"image id 42\): expected a JPEG or PNG.*found {found}"):
        read_frame(path, 42, SIZE)


def test_another_format(tmp_path, rgb):
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "BMP")
    path = tmp_path / "a.jpg"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(FrameError, match=r"expected a JPEG or PNG image, found .*b'BM"):
        read_frame(path, 42, SIZE)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_wrong_size_is_found_at_every_scale(tmp_path, rgb, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encode(rgb, suffix))
    for reduction in (1, 8):
        with pytest.raises(FrameError, match=r"image id 42\).* 47 x 64 pixels.*found 48 x 64"):
            read_frame(path, 42, (47, 64), reduction)


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        ((720, 1280), Resize(360), 2),
        ((720, 1280), Resize(361), 1),
        ((1080, 1920), Letterbox(135, 500), 8),
        ((1024, 2048), Resize(10), 8),
        ((375, 1242), Resize(94), 4),  # rounded up: 94 x 311
        ((375, 1242), Resize(160), 1),  # 160 x 530, but from half, 188 x 621, it would be x 529
        ((720, 1280), OriginalSize(), 1),
        ((48, 64), Resize(480), 1),
    ],
)
def test_reduction_leads_to_the_same_size(size, resize, expected):
    reduction = reduction_for(size, resize)

    reduced = (-(-size[0] // reduction), -(-size[1] // reduction))
    assert reduction == expected
    assert resize.target_size(reduced) == resize.target_size(size)
