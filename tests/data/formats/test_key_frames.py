from __future__ import annotations

import pytest

from vodet.data.formats.key_frames import KeyFrame, around_rotated, box_at

BOX, LATER = (0, 0, 10, 10), (8, 4, 18, 22)


def boxes(**frames: KeyFrame):
    """The box in each frame from 0 to 6, given key frames as ``f1=...``."""
    key_frames = {int(name[1:]): key for name, key in frames.items()}
    found = [box_at(frame, sorted(key_frames), key_frames) for frame in range(7)]
    return [box.xyxy if box else None for box in found]


def test_between_key_frames_and_not_outside():
    assert boxes(f1=KeyFrame(BOX), f5=KeyFrame(LATER)) == [
        None,
        BOX,
        (2, 1, 12, 13),
        (4, 2, 14, 16),
        (6, 3, 16, 19),
        LATER,
        None,
    ]


def test_an_object_that_leaves_and_comes_back():
    gone = KeyFrame(BOX, is_last=True, is_visible=False)
    found = boxes(f0=KeyFrame(BOX, is_last=True), f2=KeyFrame(BOX), f3=gone, f5=KeyFrame(LATER))

    assert found == [BOX, None, BOX, None, None, LATER, None]


def test_the_box_around_a_rotated_box():
    assert around_rotated((0, 0, 4, 2), 0, (0, 0)) == (0, 0, 4, 2)
    assert around_rotated((0, 0, 4, 2), 90, (2, 1)) == pytest.approx((1, -1, 3, 3))
    # Clockwise, with y pointing down: the right end of the box goes down.
    assert around_rotated((0, 0, 4, 2), 90, (0, 0)) == pytest.approx((-2, 0, 0, 4))
