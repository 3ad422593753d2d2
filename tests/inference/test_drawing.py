from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from vodet.inference.drawing import class_color, draw_detections

SIZES = [(160, 160), (360, 640), (1080, 1920)]


def blank(size: tuple[int, int]) -> np.ndarray:
    return np.full((*size, 3), 127, np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_box_lies_on_its_edges_in_the_colour_of_its_class(size: tuple[int, int]) -> None:
    height, width = size
    frame = blank(size)
    box = np.array([[width // 4, height // 2, width // 2, height - 10]], np.float32)
    drawn = draw_detections(frame, box, np.array([3]), ["a", "b", "c", "d"])
    assert (frame == 127).all()
    left, top, right, bottom = box[0].astype(int)
    middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
    for y, x in [(middle_y, left), (middle_y, right - 1), (bottom - 1, middle_x)]:
        assert tuple(drawn[y, x]) == class_color(3)
    assert (drawn[middle_y, middle_x] == 127).all()
    far = drawn[:, : left // 2]
    assert (far == 127).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("corner", [(-0.1, -0.1), (0.95, -0.1), (-0.1, 0.95), (0.95, 0.95)])
def test_label_stays_inside_the_picture(size: tuple[int, int], corner: tuple[float, float]) -> None:
    def ink(left: float, top: float) -> int:
        drawn = draw_detections(
            blank(size),
            np.array([[left, top, left + 30, top + 30]], np.float32),
            np.array([0]),
            ["bus"],
            scores=np.array([0.5]),
            track_ids=np.array([7]),
        )
        return int((drawn.max(axis=2) < 100).sum())

    height, width = size
    assert ink(corner[0] * width, corner[1] * height) == ink(width // 4, height // 2) > 40


def test_text_follows_scores_and_known_track_ids() -> None:
    box = np.array([[40, 40, 150, 150]], np.float32)
    label = np.array([0])

    def draw(**values: np.ndarray) -> np.ndarray:
        return draw_detections(blank((160, 160)), box, label, ["x"], **values)

    plain = draw()
    assert (draw(track_ids=np.array([-1])) == plain).all()
    assert (draw(track_ids=np.array([4])) != plain).any()
    assert (draw(scores=np.array([0.25])) != draw(scores=np.array([0.75]))).any()


def test_the_best_box_is_on_top() -> None:
    boxes = np.array([[20, 60, 140, 140], [20, 60, 140, 140]], np.float32)
    drawn = draw_detections(blank((160, 160)), boxes, np.array([1, 0]), ["a", "b"])
    assert tuple(drawn[139, 80]) == class_color(1)


def test_colours_are_distinct() -> None:
    colors = np.array([class_color(label) for label in range(21)])
    distances = [np.abs(one - other).sum() for one, other in combinations(colors, 2)]
    assert min(distances) > 30
    assert class_color(21) == class_color(0)


def draw_name(name: str, size: tuple[int, int] = (160, 160), **values: np.ndarray) -> np.ndarray:
    box = np.array([[20, 60, 140, 140]], np.float32)
    return draw_detections(blank(size), box, np.array([0]), [name], **values)


@pytest.mark.parametrize("names", [("行人", "车辆"), ("мяч", "шар"), ("차", "개"), ("ä", "ö")])
def test_names_of_many_scripts_are_drawn(names: tuple[str, str]) -> None:
    """Not as question marks, with which they would look alike."""
    first, second = (draw_name(name, (320, 320)) for name in names)
    assert (first != second).any()


def test_control_codes_are_drawn_as_their_names() -> None:
    assert (draw_name("a\x1b\nb") == draw_name(r"a\x1b\nb")).all()


def test_a_long_name_leaves_room_for_the_score() -> None:
    scores = [np.array([score]) for score in (0.25, 0.75)]
    for name in ("x" * 240, "行" * 240):
        assert (draw_name(name, scores=scores[0]) != draw_name(name, scores=scores[1])).any()
    short, long = (draw_name(name * 240, scores=scores[0]) for name in ("i", "m"))
    assert (short != long).any()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 400), (400, 1)])
def test_tiny_frames(size: tuple[int, int]) -> None:
    assert draw_name("person", size, scores=np.array([0.5])).shape == (*size, 3)
