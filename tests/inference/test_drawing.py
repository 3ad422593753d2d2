from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest
from PIL import Image, features

from tiny import fusion_of, random_frames, tiny_detector
from vodet.errors import ConfigError
from vodet.inference.drawing import class_color, draw
from vodet.inference.lettering import text_mask
from vodet.streaming import StreamingDetector
from vodet.structures import Window

SIZES = [(160, 160), (360, 640), (1080, 1920)]


def objects(boxes: object, labels: object, **columns: np.ndarray) -> dict[str, np.ndarray]:
    return {"boxes": np.array(boxes, np.float32), "labels": np.array(labels), **columns}


def blank(size: tuple[int, int]) -> np.ndarray:
    return np.full((*size, 3), 127, np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_box_lies_on_its_edges_in_the_colour_of_its_class(size: tuple[int, int]) -> None:
    height, width = size
    frame = blank(size)
    box = [width // 4, height // 2, width // 2, height - 10]
    drawn = draw(frame, objects([box], [3]), ["a", "b", "c", "d"])
    assert (frame == 127).all()
    left, top, right, bottom = box
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
        found = {"scores": np.array([0.5]), "track_ids": np.array([7])}
        box = [left, top, left + 30, top + 30]
        drawn = draw(blank(size), objects([box], [0], **found), ["bus"])
        return int((drawn.max(axis=2) < 100).sum())

    height, width = size
    assert ink(corner[0] * width, corner[1] * height) == ink(width // 4, height // 2) > 40


def test_text_follows_scores_and_known_track_ids() -> None:
    plain = draw_name("x")
    assert (draw_name("x", track_ids=np.array([-1])) == plain).all()
    assert (draw_name("x", track_ids=np.array([4])) != plain).any()
    scores = [draw_name("x", scores=np.array([score])) for score in (0.25, 0.75)]
    assert (scores[0] != scores[1]).any()


def test_the_best_box_is_on_top() -> None:
    found = objects([[20, 60, 140, 140], [20, 60, 140, 140]], [1, 0])
    drawn = draw(blank((160, 160)), found, ["a", "b"])
    assert tuple(drawn[139, 80]) == class_color(1)


def test_colours_are_distinct() -> None:
    colors = np.array([class_color(label) for label in range(21)])
    distances = [np.abs(one - other).sum() for one, other in combinations(colors, 2)]
    assert min(distances) > 30
    assert class_color(21) == class_color(0)


def draw_name(name: str, size: tuple[int, int] = (160, 160), **values: np.ndarray) -> np.ndarray:
    return draw(blank(size), objects([[20, 60, 140, 140]], [0], **values), [name])


@pytest.mark.parametrize(
    "names",
    [
        ("行人", "车辆"),
        ("мяч", "шар"),
        ("차", "개"),
        ("ä", "ö"),
        ("قطة", "كلب"),
        ("שלום", "כלב"),
        ("հայ", "ქარ"),
        ("✈", "☃"),
    ],
)
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


def label_of(boxes: np.ndarray, row: int) -> np.ndarray:
    """The picture of a label, as it is drawn above its box if it is alone."""
    drawn = draw(blank((360, 360)), objects(boxes[[row]], [row]))
    above = drawn[: int(boxes[row, 1]) - 2]
    places = np.argwhere((above != 127).any(axis=2))
    (top, left), (bottom, right) = places.min(axis=0), places.max(axis=0)
    return above[top : bottom + 1, left : right + 1]


def is_visible(label: np.ndarray, drawn: np.ndarray) -> bool:
    return bool(cv2.matchTemplate(drawn, label, cv2.TM_SQDIFF_NORMED).min() < 1e-4)


def test_labels_do_not_cover_each_other() -> None:
    boxes = np.array([[100 + n, 90 + 2 * n, 220 + n, 200 + 2 * n] for n in range(6)], np.float32)
    drawn = draw(blank((360, 360)), objects(boxes, range(6)))
    assert [is_visible(label_of(boxes, row), drawn) for row in range(6)] == [True] * 6
    assert not is_visible(label_of(boxes, 5), blank((360, 360)))


def test_where_there_is_no_room_the_best_label_is_on_top() -> None:
    boxes = np.array([[100, 90, 220, 200]] * 20, np.float32)
    drawn = draw(blank((360, 360)), objects(boxes, range(20)))
    seen = [is_visible(label_of(boxes, row), drawn) for row in range(20)]
    assert seen[:4] == [True] * 4
    assert not all(seen)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("🚗", "automobile"),
        ("👩\u200d🚀 ♥", "woman rocket ♥"),
        ("ไทย", "class 0"),
        ("हिन्दी car", "class 0"),
    ],
)
def test_names_that_the_fonts_lack_are_described(name: str, expected: str) -> None:
    assert (draw_name(name, (360, 360)) == draw_name(expected, (360, 360))).all()


def ink_columns(name: str) -> np.ndarray:
    """The inked columns of a name, without the empty ones at the sides."""
    inked = (text_mask(name, 40.0) > 128).sum(axis=0)
    return np.trim_zeros(inked)


@pytest.mark.skipif(
    not features.check("raqm"), reason="Pillow writes to the left with FriBiDi only"
)
def test_arabic_is_joined_and_runs_to_the_left() -> None:
    """In آب, the tall letter آ comes first, so it is at the right."""
    columns = ink_columns("آب")
    assert columns[-8:].max() > 2 * columns[:8].max()
    assert len(ink_columns("بب")) < 2 * len(ink_columns("ب"))  # joined letters are narrower


def test_draws_what_a_stream_returns() -> None:
    detector = tiny_detector(fusion_of("none"), Window())
    (frame,) = random_frames(1)
    (result,) = StreamingDetector(detector).push(frame)
    picture = frame.permute(1, 2, 0).numpy()
    drawn = draw(picture, result, detector.class_names)
    assert (drawn != picture).any()
    columns = {key: value.numpy() for key, value in result.detections.items()}
    for image in (picture, frame, Image.fromarray(picture)):
        assert (draw(image, columns, detector.class_names) == drawn).all()


def test_without_names_the_labels_are_drawn() -> None:
    found = objects([[20, 60, 140, 140]], [3])
    names = ["a", "b", "c", "3"]
    assert (draw(blank((160, 160)), found) == draw(blank((160, 160)), found, names)).all()


def test_another_image_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(8, 8\) of uint8"):
        draw(np.zeros((8, 8), np.uint8), objects([], []))
