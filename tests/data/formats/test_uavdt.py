from __future__ import annotations

from collections import Counter

import pytest

from data.formats import random_native
from vodet.data.formats.uavdt import SPLITS, read_uavdt
from vodet.errors import ConfigError, DataError


@pytest.fixture
def source(tmp_path, image, text):
    root = tmp_path / "uavdt"
    for name in ("M0101", "M0701"):
        for frame in range(1, 4):
            image(root / f"UAV-benchmark-M/{name}/img{frame:06d}.jpg", 54, 102)
        text(
            root / f"GT/{name}_gt_whole.txt",  # rows come by target, not by frame
            "1,1,10,20,5,6,1,1,1",
            "3,1,11,20,5,6,1,2,1",
            "1,2,30,40,9,8,3,4,3",
        )
        text(root / f"GT/{name}_gt.txt", "1,1,10,20,5,6,1,1,-1")
        text(root / f"GT/{name}_gt_ignore.txt", "1,1,0,0,50,10,1,-1,-1")
    text(root / "M_attr/train/M0101_attr.txt", "1,0,0,0,1,0,0,1,0,0")
    text(root / "M_attr/test/M0701 _attr.txt", "0,1,1,0,0,1,1,0,0,1")
    return root


def test_frames_from_1_columns_and_ignore_regions(source, convert):
    found = convert(read_uavdt(source, sequences={"M0101": None}))

    assert found.frames == {
        ("M0101", 1): [
            ("car", (10, 20, 5, 6), "1", 0),
            ("bus", (30, 40, 9, 8), "2", 0),
            ("car", (0, 0, 50, 10), None, 1),
            ("truck", (0, 0, 50, 10), None, 1),
            ("bus", (0, 0, 50, 10), None, 1),
        ],
        ("M0101", 2): [],
        ("M0101", 3): [("car", (11, 20, 5, 6), "1", 0)],
    }
    assert [a.get("occluded") for a in found.annotations] == ["0", "1", None, None, None, "1"]
    assert found.images[0]["file_name"] == "UAV-benchmark-M/M0101/img000001.jpg"


def test_attributes_of_a_file_with_a_blank_in_its_name(source, convert):
    videos = convert(read_uavdt(source)).document["videos"]

    assert [(video["name"], video["attributes"]) for video in videos] == [
        ("M0101", ["daylight", "medium-alt", "side-view"]),
        ("M0701", ["night", "fog", "high-alt", "front-view", "long-term"]),
    ]


def test_sets_without_attributes_are_read(source, convert):
    (source / "M_attr").rename(source / "elsewhere")

    found = convert(read_uavdt(source))

    assert "videos" not in found.document
    assert list(found.summary.skipped.values()) == [2]


def test_images_elsewhere(source, convert, tmp_path):
    (source / "UAV-benchmark-M").rename(tmp_path / "frames")

    found = convert(read_uavdt(source, images=tmp_path / "frames"))

    assert found.images[0]["file_name"] == "M0101/img000001.jpg"


def test_official_splits(source):
    assert [len(names) for names in SPLITS.values()] == [30, 20]
    assert not set(SPLITS["train"]) & set(SPLITS["test"])
    with pytest.raises(ConfigError, match="expected one of train, test; found val"):
        read_uavdt(source, split="val")
    with pytest.raises(DataError, match=r"29 of 30 sequences are not in .*M0201"):
        read_uavdt(source, split="train")


def test_what_is_missing_or_malformed(source, convert, text):
    text(source / "GT/M0101_gt_whole.txt", "1,1,10,20,5,6,1,1,4", "1,1,10,20,5,6,1,1")
    with pytest.raises(DataError, match=r"(?s)line 1: category: .*found 4.*line 2: expected 9"):
        convert(read_uavdt(source))
    text(source / "GT/M0101_gt_whole.txt", "0,1,10,20,5,6,1,1,1")
    with pytest.raises(DataError, match="line 1: expected a frame with an image, found frame 0"):
        convert(read_uavdt(source))
    text(source / "GT/M0101_gt_whole.txt")
    (source / "GT/M0101_gt_ignore.txt").unlink()
    with pytest.raises(DataError, match=r"There is no text file .*M0101_gt_ignore\.txt"):
        convert(read_uavdt(source))
    (source / "M_attr/train/M0101_attr.txt").unlink()
    text(source / "GT/M0101_gt_ignore.txt")
    with pytest.raises(DataError, match="Expected the attributes of M0101"):
        convert(read_uavdt(source))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1,0,0,0,1,0,0,1,0"], r"line 1: expected 10 values \(daylight, .*found 9"),
        (["1,0,0,0,1,0,0,2,0,0"], "line 1: side-view: expected one of 0, 1, found 2"),
        (["1,0,0,0,1,0,0,1,0,0"] * 2, "expected one line of 10 values, found 2"),
    ],
)
def test_malformed_attributes_are_named(source, convert, text, lines, message):
    text(source / "M_attr/train/M0101_attr.txt", *lines)

    with pytest.raises(DataError, match=rf"M0101_attr\.txt: {message}"):
        convert(read_uavdt(source))


def test_boxes_outside_the_image_are_clipped_or_counted(source, convert, text):
    text(source / "GT/M0101_gt_whole.txt", "1,1,-5,20,15,6,1,1,1", "1,2,102,20,5,6,1,1,1")

    found = convert(read_uavdt(source, sequences={"M0101": range(1, 2)}))

    assert found.frames["M0101", 1][0] == ("car", (0, 20, 10, 6), "1", 0)
    assert found.summary.clipped == 1
    assert found.summary.skipped == {"boxes entirely outside the image": 1}


def test_missing_folders(source, convert):
    with pytest.raises(DataError, match=r"Expected sequences in .*UAV-benchmark-M, found none"):
        read_uavdt(source / "UAV-benchmark-M")
    (source / "UAV-benchmark-M/M0701").rename(source / "M0701")
    with pytest.raises(DataError, match=r"Expected a folder of images at .*M0701, found none"):
        convert(read_uavdt(source))


@pytest.mark.parametrize("drop_ignored", [True, False])
def test_random_objects_of_a_sequence_of_real_length(rng, same_as_written, tmp_path, drop_ignored):
    images = tmp_path / "images"
    written = random_native.uavdt(tmp_path / "uavdt", images, rng)

    found = same_as_written(read_uavdt(tmp_path / "uavdt", images=images), written, drop_ignored)

    assert found.summary.frames == 298
    rows = [row for rows in written.values() for row in rows if not row[3]]
    counts = Counter(kind for kind, *_ in rows)
    assert found.summary.boxes == {0: counts["car"], 1: counts["truck"], 2: counts["bus"]}
    assert min(counts.values()) > 100
    assert len({a["id_track"] for a in found.annotations if not a["ignore"]}) == 24
