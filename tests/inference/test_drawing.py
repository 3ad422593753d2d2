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
