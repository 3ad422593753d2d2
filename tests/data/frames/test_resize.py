from __future__ import annotations

import numpy as np
import pytest

from vodet.data.frames.resize import Letterbox, OriginalSize, Rescale, Resize, Stretch
from vodet.errors import ConfigError


@pytest.mark.parametrize(
    ("resize", "size", "expected"),
    [
        (Resize(24), (48, 64), (24, 32)),
        (Resize(24), (64, 48), (32, 24)),
        (Resize(600, 1000), (720, 1280), (562, 1000)),
        (Resize(600, 1000), (720, 960), (600, 800)),
        (Letterbox(320, 320), (720, 1280), (180, 320)),
        (Letterbox(320, 576), (1000, 100), (320, 32)),
        (Letterbox(10, 10), (5, 1000), (1, 10)),
        (Stretch(64, 48), (720, 1280), (64, 48)),
        (OriginalSize(), (48, 64), (48, 64)),
    ],
)
def test_target_size(resize, size, expected):
    assert resize.target_size(size) == expected


@pytest.mark.parametrize(
    ("resize", "factor", "expected"),
    [
        (OriginalSize(), 1.25, Rescale(1.25)),
        (OriginalSize().scaled(0.5), 3.0, Rescale(1.5)),
        (Resize(600), 0.5, Resize(300)),
        (Resize(600, 1000), 1.5, Resize(900, 1500)),
        (Letterbox(320, 576), 1.25, Letterbox(400, 720)),
        (Stretch(640, 320), 1.25, Stretch(800, 400)),
    ],
)
def test_scaled(resize, factor, expected):
    scaled = resize.scaled(factor)
    assert scaled == expected
    height, width = resize.target_size((720, 1280))
    assert scaled.target_size((720, 1280)) == (
        pytest.approx(factor * height, abs=1),
        pytest.approx(factor * width, abs=1),
    )


def test_a_stretch_averages_the_side_that_shrinks_and_interpolates_the_one_that_grows():
    frame = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3) * 5

    stretched = Stretch(8, 2)(frame)

    assert stretched.shape == (8, 2, 3)
    means = frame.reshape(4, 2, 2, 3).mean(2)
    assert np.abs(stretched[[0, -1]] - means[[0, -1]]).max() <= 0.5


def test_rescale_multiplies_both_sides():
    assert Rescale(0.5)(np.zeros((72, 130, 3), np.uint8)).shape == (36, 65, 3)


def test_resize_averages_where_it_shrinks_and_interpolates_where_it_grows():
    frame = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3) * 5

    small, large = Resize(2)(frame), Resize(8)(frame)

    assert np.abs(small - frame.reshape(2, 2, 2, 2, 3).mean((1, 3))).max() <= 0.5
    assert large.shape == (8, 8, 3)
    assert np.array_equal(large[0, 0], frame[0, 0])


def test_letterbox_puts_the_picture_at_the_top_left_on_black():
    frame = np.full((10, 20, 3), 200, np.uint8)
    letterbox = Letterbox(16, 16)

    result = letterbox(frame)

    height, width = letterbox.target_size((10, 20))
    assert (height, width) == (8, 16)
    assert (result[:height, :width] == 200).all()
    assert not result[height:].any()
    assert not result[:, width:].any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Resize(0),
        lambda: Resize(600, 500),
        lambda: Letterbox(320, 0),
        lambda: Stretch(320, 0),
        lambda: Rescale(0.0),
        lambda: Resize(600).scaled(0.0001),
        lambda: OriginalSize().scaled(-1.0),
    ],
)
def test_impossible_sizes(make):
    with pytest.raises(ConfigError, match=r"found (Resize|Letterbox|Stretch|Rescale)"):
        make()
