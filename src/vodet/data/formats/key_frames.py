"""Computes the boxes of an object between its key frames, and the boxes around rotated boxes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vodet.data.formats.records import Number

Corners = tuple[Number, Number, Number, Number]


class KeyFrame(NamedTuple):
    """The box of an object in a frame, from which boxes in later frames are interpolated.

    Args:
        xyxy: Corners of the box.
        is_last: Whether the object is not visible between this frame and the next key frame.
        is_visible: Whether the object is visible in this frame.
        is_occluded: Whether the object is partly hidden; None if the data set does not say.
    """

    xyxy: Corners
    is_last: bool = False
    is_visible: bool = True
    is_occluded: bool | None = None


def box_at(
    frame: int, numbers: Sequence[int], key_frames: Mapping[int, KeyFrame]
) -> KeyFrame | None:
    """Return an object in a frame, interpolated linearly between two key frames.

    Args:
        frame: Number of the frame.
        numbers: Numbers of the key frames, in ascending order.
        key_frames: The key frames by number.

    Returns:
        The object, or None if it is not visible: before the first and after the last key frame, and
        after a key frame that says so.
    """
    place = bisect_right(numbers, frame) - 1
    if place < 0:
        return None
    number = numbers[place]
    earlier = key_frames[number]
    if number == frame:
        return earlier if earlier.is_visible else None
    if earlier.is_last or place + 1 == len(numbers):
        return None
    later_number = numbers[place + 1]
    later = key_frames[later_number]
    share = (frame - number) / (later_number - number)
    left, top, right, bottom = (
        a + (b - a) * share for a, b in zip(earlier.xyxy, later.xyxy, strict=True)
    )
    return earlier._replace(xyxy=(left, top, right, bottom))


def around_rotated(xyxy: Corners, degrees: Number, pivot: tuple[Number, Number]) -> Corners:
    """Return the box around a box that is rotated clockwise about a point."""
    if not degrees:
        return xyxy
    left, top, right, bottom = xyxy
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(x - pivot[0], y - pivot[1]) for x in (left, right) for y in (top, bottom)]
    xs = [pivot[0] + x * cosine - y * sine for x, y in corners]
    ys = [pivot[1] + x * sine + y * cosine for x, y in corners]
    return min(xs), min(ys), max(xs), max(ys)
