from __future__ import annotations

import pytest

from data.formats import random_native
from vodet.data.formats.kitti_tracking import CLASS_NAMES, read_kitti_tracking
from vodet.errors import ConfigError, DataError

REST = "1.5 1.6 3.7 2.9 1.5 13.1 -1.57"


@pytest.fixture
def source(tmp_path, image, text):
    for frame in range(3):
        image(tmp_path / f"k/training/image_02/0003/{frame:06d}.png", 40, 100)
    text(
        tmp_path / "k/training/label_02/0003.txt",
        f"0 -1 DontCare -1 -1 -10.0 60.5 10 70.25 20 {REST}",
        f"0 4 Car 0 1 -1.7 10.5 5.25 30.5 25 {REST}",
        f"2 5 Person 0 0 -1.7 90 5 104.5 25 {REST}",
    )
    return tmp_path / "k"


def test_types_are_classes_and_dont_care_is_to_ignore_for_each(source, convert):
    found = convert(read_kitti_tracking(source))

    assert found.frames == {
        ("0003", 0): [
            *((name, (60.5, 10, 9.75, 10), None, 1) for name in CLASS_NAMES),
            ("car", (10.5, 5.25, 20, 19.75), "4", 0),
        ],
        ("0003", 1): [],
        ("0003", 2): [("person_sitting", (90, 5, 10, 20), "5", 0)],
    }
    assert [a["occluded"] for a in found.annotations if not a["ignore"]] == ["1", "0"]
    assert found.summary.clipped == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"0 4 Bear 0 1 -1.7 10 5 30 25 {REST}", "type: expected one of Car, Van, .*'Bear'"),
        (f"3 4 Car 0 1 -1.7 10 5 30 25 {REST}", "expected a frame with an image, found frame 3"),
        (f"0.5 4 Car 0 1 -1.7 10 5 30 25 {REST}", "frame: expected an integer, found '0.5'"),
        (f"0 4 Car 0 1 -1.7 10 x 30 25 {REST}", "top: expected a finite number, found 'x'"),
        ("0 4 Car 0 1 -1.7 10 5 30 25", r"expected 17 values \(frame, track_id, .*found 10"),
    ],
)
def test_malformed_lines_are_named(source, convert, text, line, message):
    text(source / "training/label_02/0003.txt", "", line)

    with pytest.raises(DataError, match=rf"0003\.txt: line 2: {message}"):
        convert(read_kitti_tracking(source))


def test_boxes_outside_the_image_are_counted(source, convert, text):
    text(source / "training/label_02/0003.txt", f"0 4 Car 0 1 -1.7 101 5 130 25 {REST}")

    found = convert(read_kitti_tracking(source))

    assert found.summary.skipped == {"boxes entirely outside the image": 1}
    assert found.summary.boxes.total() == 0


def test_what_is_missing(source, convert):
    with pytest.raises(ConfigError, match="--split: expected one of train, val; found test"):
        read_kitti_tracking(source, split="test")
    with pytest.raises(DataError, match=r"11 of 12 sequences are not in .*; there are: 0003"):
        read_kitti_tracking(source, split="train")
    with pytest.raises(DataError, match=r"Looked for labels of KITTI tracking in .*label_02"):
        read_kitti_tracking(source / "training/image_02")
    with pytest.raises(DataError, match=r"Looked for images of KITTI in .*image_02"):
        read_kitti_tracking(source, images=source / "training/label_02")
    (source / "training/image_02/0003").rename(source / "training/image_02/3")
    with pytest.raises(DataError, match=r"Expected a folder of images at .*0003, found none"):
        convert(read_kitti_tracking(source))


@pytest.mark.parametrize("drop_ignored", [True, False])
def test_random_objects_of_all_types(rng, same_as_written, tmp_path, drop_ignored):
    written = random_native.kitti_tracking(tmp_path / "k", rng)
    found = same_as_written(read_kitti_tracking(tmp_path / "k"), written, drop_ignored)
    assert {name for rows in found.frames.values() for name, *_ in rows} == set(CLASS_NAMES)
