from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data.formats import random_native
from vodet.data.formats.export import DetectionRows
from vodet.data.formats.export_vid import write_vid_devkit
from vodet.data.formats.imagenet import CLASSES, read_imagenet_vid
from vodet.data.formats.records import Box, Category, Frame, Records, Video
from vodet.errors import DataError
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.vid import vid_average_precision

FIRST, SECOND = "ILSVRC2015_val_00000000", "ILSVRC2015_val_00000001"


@pytest.fixture
def index(convert):
    """The second video comes first, frames have gaps and classes another order than in the kit."""
    names = ["zebra", "bird", "airplane"]
    box = Box(0, (10, 20, 30, 60))
    videos = {
        f"val/{SECOND}": [Frame("b/0.jpg", 0, (90, 90), [box])],
        f"val/{FIRST}": [
            Frame("a/3.jpg", 3, (90, 90), [box, box._replace(label=1)]),
            Frame("a/12.jpg", 12, (90, 90), [box._replace(label=2)]),
        ],
    }
    categories = [Category(number, name, name) for number, name in enumerate(names, start=5)]
    return convert(Records(categories, (Video(*item) for item in videos.items()))).index


DETECTIONS = DetectionRows(
    frames=np.array([0, 1, 2, 1]),
    boxes=np.array([(1, 2, 3.5, 4), (10, 20, 30, 60), (0, 0, 9, 9), (5, 6, 7, 8)], np.float64),
    scores=np.array([0.5, 0.25, 1.0, 0.75]),
    labels=np.array([0, 1, 2, 0]),
)


def test_frames_are_numbered_in_order_of_videos_and_classes_known_by_name(index, tmp_path):
    write_vid_devkit(index, DETECTIONS, tmp_path / "vid.txt")

    assert (tmp_path / "vid.txt").read_text().splitlines() == [
        "1 30 0.75 5.0 6.0 7.0 8.0",
        "1 5 0.25 10.0 20.0 30.0 60.0",
        "2 1 1.0 0.0 0.0 9.0 9.0",
        "3 30 0.5 1.0 2.0 3.5 4.0",
    ]


def test_frames_are_numbered_by_a_list(index, tmp_path, text):
    val = text(tmp_path / "val.txt", f"{FIRST}/000003 17", f"{SECOND}/000000 4", "x/000000 1")
    found = DetectionRows(*(column[[0, 1]] for column in DETECTIONS))

    write_vid_devkit(index, found, tmp_path / "vid.txt", val)

    assert (tmp_path / "vid.txt").read_text().splitlines() == [
        "4 30 0.5 1.0 2.0 3.5 4.0",
        "17 5 0.25 10.0 20.0 30.0 60.0",
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([f"{SECOND}/000000 3"], rf"val\.txt: \n  expected the frame {FIRST}/000003, found none\n"),
        ([f"{SECOND}/000000"], r"val\.txt: line 1: expected 2 values \(frame, frame_index\)"),
        ([f"{SECOND}/000000 a"], r"val\.txt: line 1: frame_index: expected an integer, found 'a'"),
        (
            [f"{FIRST}/000003 1", f"{FIRST}/000012 2", *[f"{SECOND}/000000 3"] * 2],
            "expected each frame once, found 3 frames in 4 lines",
        ),
    ],
)
def test_faulty_lists_are_refused(index, tmp_path, text, lines, message):
    val = text(tmp_path / "val.txt", *lines)

    with pytest.raises(DataError, match=message):
        write_vid_devkit(index, DETECTIONS, tmp_path / "vid.txt", val)
    assert not (tmp_path / "vid.txt").exists()


def test_a_class_that_vid_lacks_is_refused(index, tmp_path):
    other = dataclasses.replace(index, class_names=("zebra", "bird", "aeroplane"))

    with pytest.raises(DataError, match=r"classes of ImageNet VID \(airplane, .*found aeroplane\."):
        write_vid_devkit(other, DETECTIONS, tmp_path / "vid.txt")


def test_a_list_gives_the_frames_of_a_data_set_their_order(rng, convert, tmp_path):
    root = tmp_path / "ILSVRC2015"
    written = random_native.imagenet_vid(root, rng, CLASSES)
    val = root / "ImageSets/VID/val.txt"
    index = convert(read_imagenet_vid(root, split="val", frames=val)).index
    frames = len(written)
    found = DetectionRows(
        np.arange(frames), np.ones((frames, 4)), np.ones(frames), np.zeros(frames, np.int64)
    )

    write_vid_devkit(index, found, tmp_path / "listed.txt", val)
    write_vid_devkit(index, found, tmp_path / "ordered.txt")

    listed = (tmp_path / "listed.txt").read_text()
    numbers = [int(line.split()[0]) for line in listed.splitlines()]
    assert numbers == list(range(1, frames + 1))
    assert (tmp_path / "ordered.txt").read_text() == listed


def test_the_file_has_the_ap_of_the_predictions(index, tmp_path):
    rng = np.random.default_rng(0)
    truth = index.ground_truth()
    labels, frames = rng.integers(0, 3, 300), rng.integers(0, 3, 300)
    boxes = (truth.boxes[0] + rng.normal(0, 4, (300, 4))).astype(np.float32)
    scores = rng.permutation(300).astype(np.float32) / 512
    found = DetectionRows(frames, boxes.astype(np.float64), scores.astype(np.float64), labels)
    write_vid_devkit(index, found, tmp_path / "vid.txt")

    table = np.loadtxt(tmp_path / "vid.txt")
    image_ids = np.array([index.image_ids[row] for row in (1, 2, 0)])  # of numbers 1, 2, 3
    names = [[*CLASSES.values()][int(number) - 1] for number in table[:, 1]]
    read = DetectionTable(
        image_ids[table[:, 0].astype(int) - 1],
        table[:, 3:].astype(np.float32),
        table[:, 2].astype(np.float32),
        np.array([truth.class_names.index(name) for name in names]),
    )

    expected = vid_average_precision(
        truth, DetectionTable(index.image_ids[frames], boxes, scores, labels)
    )
    assert vid_average_precision(truth, read) == expected
    assert 0.05 < expected["vid/ap_50"] < 1
