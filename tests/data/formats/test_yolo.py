from __future__ import annotations

import pytest

from vodet.data.formats.yolo import read_yolo
from vodet.data.formats.yolo_yaml import splits_in
from vodet.errors import ConfigError, DataError

NAMES = "names: [car, bus]"


@pytest.fixture
def yolo(tmp_path, image, text):
    """Writes a data set: one video with the given label lines, frame by frame; None for no file."""

    def write(*frames, config=("train: images/train", NAMES), folder="images/train", first=0):
        root = tmp_path / "yolo"
        text(root / "data.yaml", *config)
        for number, lines in enumerate(frames, start=first):
            path = image(root / folder / f"clip_{number:04d}.jpg", 48, 64)
            if lines is not None:
                where = str(path).replace("/images/", "/labels/")
                text(path.parent / where.replace(".jpg", ".txt"), *lines)
        return root

    return write


def test_boxes_tracks_and_polygons(yolo, convert):
    root = yolo(
        ["1 0.5 0.5 0.25 0.5", "0 0.25 0.25 0.5 0.5 12"],
        None,  # an image without a file has no object
        [],
        ["0 0.25 0.5 0.75 0.5 0.5 0.75 ", "1.0 0 0 1 1 0 1 1 0"],  # polygons of 3 and 4 points
    )
    (root / "labels/train/classes.txt").write_text("car\nbus\n")
    (root / "labels/train/lost.txt").write_text("")

    found = convert(read_yolo(root, videos_from="folder"))

    assert found.frames == {
        ("images/train", 0): [
            ("bus", (24, 12, 16, 24), None, 0),
            ("car", (0, 0, 32, 24), "12", 0),
        ],
        ("images/train", 1): [],
        ("images/train", 2): [],
        ("images/train", 3): [
            ("car", (16, 24, 32, 12), None, 0),
            ("bus", (0, 0, 64, 48), None, 0),
        ],
    }
    assert found.images[0]["file_name"] == "images/train/clip_0000.jpg"
    assert found.summary.support_frames == 0
    assert found.summary.skipped == {"label files without an image": 1}


def test_frames_need_a_choice_of_videos(yolo):
    with pytest.raises(ConfigError, match=r"clip_0000\.jpg'.*--videos-from"):
        read_yolo(yolo(*[[]] * 4))


def test_splits_as_folder_list_and_text_file(yolo, convert, text):
    yolo([], [], folder="images/a")
    yolo([], [], folder="images/b", first=2)
    root = yolo(
        [],
        folder="c",
        first=4,
        config=(
            "path: .",
            "train: [images/a, images/b]",
            "val: val.txt",
            "test:",
            "nc: 2",
            "names: {0: car, 1: bus}",
        ),
    )
    text(root / "val.txt", "./images/b/clip_0003.jpg", "", "images/a/clip_0001.jpg")

    assert splits_in(root / "data.yaml") == ["train", "val"]
    numbers = {
        split: [n for _, n in convert(read_yolo(root, split=split, videos_from="folder")).frames]
        for split in ("train", "val", None)
    }
    assert numbers == {"train": [0, 1, 2, 3], "val": [3, 1], None: [0, 1, 2, 3]}
    with pytest.raises(ConfigError, match="--split: expected one of train, val; found test"):
        read_yolo(root, split="test")
    text(root / "val.txt", "images/b/clip_0003.jpg", "images/b/none.jpg")
    with pytest.raises(DataError, match=r"val\.txt: line 2: .*none at .*none\.jpg"):
        read_yolo(root, split="val")


@pytest.mark.parametrize(
    "config",
    [("path: /content/data", "train: images/train"), ("train: ../images/train",)],
    ids=["path of another machine", "Roboflow"],
)
def test_paths_that_are_not_of_this_machine(yolo, convert, config):
    root = yolo(["0 0.5 0.5 1 1"], config=(*config, NAMES))

    assert convert(read_yolo(root)).summary.boxes.total() == 1


def test_images_outside_the_root(yolo, convert, tmp_path):
    yolo(["0 0.5 0.5 1 1"])
    file = tmp_path / "configs/data.yaml"
    file.parent.mkdir()
    file.write_text(f"path: ../yolo\ntrain: images/train\n{NAMES}\n")

    with pytest.raises(ConfigError, match=r"below the image root .*configs, found .*clip_0000"):
        read_yolo(file)
    found = convert(read_yolo(file, images=tmp_path))
    assert found.images[0]["file_name"] == "yolo/images/train/clip_0000.jpg"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("0 320 240 20 20", "from 0 to 1, .*found 320"),
        ("0 0.5 0.5 -0.5 0.5", "from 0 to 1, .*found -0.5"),
        ("0 0.5 nan 0.5 0.5", "finite number, found 'nan'"),
        ("2 0.5 0.5 0.5 0.5", r"\(0, 1\), found 2"),
        ("0.5 0.5 0.5 0.5 0.5", "integer, found '0.5'"),
        ("0 0.5 0.5 0.5", "found 4 values"),
        ("0 0.5 0.5 0.5 0.5 0.1 0.2 0.3", "found 8 values"),
        ("0 0.5 0.5 0.5 0.5 0.87", r"track id, .*found 0\.87"),
        ("car 0.5 0.5 0.5 0.5", "finite number, found 'car'"),
    ],
)
def test_malformed_lines_are_named(yolo, convert, line, found):
    root = yolo(["0 0.5 0.5 0.5 0.5", "", line])

    with pytest.raises(DataError, match=rf"clip_0000\.txt: line 3: .*{found}"):
        convert(read_yolo(root))


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (("train: images/train",), "class names in the key names.*None"),
        (("train: images/train", "nc: 2"), "class names in the key names"),
        (("train: images/train", "nc: 3", NAMES), "nc is 3, but names has 2"),
        (("train: images/train", "names: [car, car]"), "found car several times"),
        (("train: images/train", "names: [yes, no]"), "0: True.*quotes"),
        (("train: images/none", NAMES), "train: .*images/none"),
        ((NAMES,), "train, val, test"),
        (("train: [",), "Cannot read .*line 2"),
        (("- a",), r"keys such as train.*\['a'\]"),
    ],
)
def test_faults_of_the_yaml_file(yolo, config, found):
    root = yolo([], config=config)

    with pytest.raises(DataError, match=found) as caught:
        read_yolo(root)
    assert "data.yaml" in str(caught.value)


def test_what_is_missing(yolo, tmp_path, text):
    with pytest.raises(DataError, match=r"Expected the YAML file .*none\.yaml"):
        read_yolo(tmp_path / "none.yaml")
    root = yolo(None)
    with pytest.raises(DataError, match=r"label files for 1 images.*labels/train/clip_0000\.txt"):
        read_yolo(root)
    (root / "images/train/clip_0000.jpg").unlink()
    with pytest.raises(DataError, match=r"Expected images in .*images/train, found none"):
        read_yolo(root)
    (root / "data.yaml").rename(root / "a.yaml")
    text(root / "b.yaml", NAMES)
    with pytest.raises(DataError, match=r"data\.yaml in .*found a\.yaml, b\.yaml"):
        read_yolo(root)
