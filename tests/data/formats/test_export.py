from __future__ import annotations

import numpy as np
import pytest

from data.formats import random_native
from vodet.data.formats import export
from vodet.data.formats.export import SEQUENCE_TOOLKITS, DetectionRows, write_sequences
from vodet.data.formats.kitti_tracking import read_kitti_tracking
from vodet.data.formats.mot import read_mot
from vodet.data.formats.records import Frame, Records, Video, categories_of
from vodet.errors import DataError


@pytest.fixture
def index_of(convert):
    """Makes an index of classes and of videos, each a name with the numbers of its frames."""

    def make(class_names, **videos):
        frames = {
            name: [Frame(f"{n}.jpg", n, (500, 900), []) for n in numbers]
            for name, numbers in videos.items()
        }
        records = Records(categories_of(class_names), (Video(*item) for item in frames.items()))
        return convert(records).index

    return make


def rows(*detections):
    """Columns of ``(frame, box, score, label)``."""
    frames, boxes, scores, labels = zip(*detections, strict=True)
    return DetectionRows(
        np.array(frames), np.array(boxes, np.float64), np.array(scores), np.array(labels)
    )


DETECTIONS = [
    (1, (1.5, 2, 11.5, 22.25), 0.25, 0),
    (0, (0, 0, 899.5, 500), 0.5, 1),
    (1, (3, 4, 5, 6), 0.75, 1),
    (4, (10.1, 20.2, 30.3, 40.4), 0.00001, 0),
]


def test_uavdt(index_of, tmp_path):
    index = index_of(["truck", "bus", "car"], M0203=[1, 2, 3], M0205=[1], M0101=[7])

    write_sequences(SEQUENCE_TOOLKITS["uavdt"], index, rows(*DETECTIONS), tmp_path / "det")

    assert {path.name: path.read_text() for path in (tmp_path / "det").iterdir()} == {
        "M0203.txt": "1,-1,0.0,0.0,899.5,500.0,0.5,3,-1\n"
        "2,-1,3.0,4.0,2.0,2.0,0.75,3,-1\n"
        "2,-1,1.5,2.0,10.0,20.25,0.25,2,-1\n",
        "M0205.txt": "",
        "M0101.txt": "7,-1,10.1,20.2,20.2,20.2,0.00001,2,-1\n",
    }


def test_mot(index_of, tmp_path):
    index = index_of(["pedestrian"], **{"MOT17-02-DPM": [1, 2]})
    found = rows((1, (1.5, 2, 11.5, 22.25), 0.25, 0), (0, (-3, 4, 5, 6), 1, 0))

    write_sequences(SEQUENCE_TOOLKITS["mot"], index, found, tmp_path)

    assert (tmp_path / "MOT17-02-DPM.txt").read_text().splitlines() == [
        "1,-1,-3.0,4.0,8.0,2.0,1.0,-1,-1,-1",
        "2,-1,1.5,2.0,10.0,20.25,0.25,-1,-1,-1",
    ]


def test_kitti_in_the_columns_of_its_kit(index_of, tmp_path):
    index = index_of(["car", "person_sitting"], **{"0002": [0, 1], "0006": [0, 1, 2]})

    write_sequences(SEQUENCE_TOOLKITS["kitti"], index, rows(*DETECTIONS), tmp_path)

    unknown = "-1 -1 -1 -1000 -1000 -1000 -10"
    assert (tmp_path / "0002.txt").read_text().splitlines() == [
        f"0 -1 Person_sitting -1 -1 -10 0.0 0.0 899.5 500.0 {unknown} 0.5",
        f"1 -1 Person_sitting -1 -1 -10 3.0 4.0 5.0 6.0 {unknown} 0.75",
        f"1 -1 Car -1 -1 -10 1.5 2.0 11.5 22.25 {unknown} 0.25",
    ]
    assert (tmp_path / "0006.txt").read_text().split()[0] == "2"


@pytest.mark.parametrize("name", SEQUENCE_TOOLKITS)
def test_what_is_read_is_what_was_written(index_of, tmp_path, monkeypatch, name):
    monkeypatch.setattr(export, "_CHUNK", 7)
    index = index_of(["pedestrian"] if name == "mot" else ["car"], A=range(1, 9), B=range(3, 6))
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 400, (50, 2)).astype(np.float32)
    boxes = np.hstack([corners, corners + rng.uniform(1, 90, (50, 2)).astype(np.float32)])
    frames, scores = rng.integers(0, 11, 50), rng.permutation(50) / 64
    found = DetectionRows(frames, boxes.astype(np.float64), scores, np.zeros(50, np.int64))

    write_sequences(SEQUENCE_TOOLKITS[name], index, found, tmp_path)

    read = {}
    for sequence in "AB":
        for line in (tmp_path / f"{sequence}.txt").read_text().splitlines():
            values = line.replace(",", " ").split()
            if name == "kitti":
                box, score = [float(v) for v in values[6:10]], float(values[-1])
            else:
                left, top, width, height, score = (float(v) for v in values[2:7])
                box = [left, top, left + width, top + height]
            read[sequence, int(values[0]), score] = box
    for frame, box, score in zip(frames, boxes, scores, strict=True):
        key = ("A", frame + 1, score) if frame < 8 else ("B", frame - 5, score)
        np.testing.assert_allclose(read.pop(key), box, rtol=0, atol=1e-6)
    assert not read


@pytest.mark.parametrize(
    ("name", "read", "write", "annotations", "is_kept", "box"),
    [
        (
            "mot",
            read_mot,
            random_native.mot,
            "MOT17-04-FRCNN/gt/gt.txt",
            lambda row: row[6:8] == ["1", "1"],
            slice(2, 6),
        ),
        (
            "kitti",
            read_kitti_tracking,
            random_native.kitti_tracking,
            "label_02/0001.txt",
            lambda row: row[2] != "DontCare",
            slice(6, 10),
        ),
    ],
)
def test_annotations_come_back(
    rng, convert, tmp_path, name, read, write, annotations, is_kept, box
):
    native = tmp_path / "native"
    write(native, rng)
    found = convert(read(native), drop_ignored=True)
    index = found.index
    frames = np.repeat(np.arange(index.num_frames), np.diff(index.box_starts))
    objects = DetectionRows(frames, index.boxes.astype(float), np.ones(len(frames)), index.labels)

    write_sequences(SEQUENCE_TOOLKITS[name], index, objects, tmp_path / "out")

    def table(path, is_kept):
        lines = [line.replace(",", " ").split() for line in path.read_text().splitlines()]
        rows = np.array([[row[0], *row[box]] for row in lines if is_kept(row)], float)
        return rows.round(1)

    (file,) = (tmp_path / "out").iterdir()
    written, expected = table(file, lambda _: True), table(native / annotations, is_kept)
    assert len(written) == len(expected)
    unlike = set(map(tuple, expected)) - set(map(tuple, written))
    assert len(unlike) == found.summary.clipped < len(written) / 4


@pytest.mark.parametrize(
    ("name", "classes", "videos", "message"),
    [
        ("uavdt", ["car", "van"], {"A": [1]}, r"classes of UAVDT \(car, truck, bus\), found van\."),
        ("mot", ["person"], {"A": [1]}, r"classes of MOT Challenge \(pedestrian\), found person"),
        ("kitti", ["Car"], {"A": [1]}, r"classes of KITTI tracking \(car, van, .*found Car"),
        ("uavdt", ["car"], {"A": [0]}, "frames numbered from 1, as in UAVDT, found frame 0"),
        ("mot", ["pedestrian"], {"A": [0]}, "numbered from 1, as in MOT Challenge, found frame 0"),
        ("kitti", ["car"], {"A": [-1]}, "numbered from 0, as in KITTI tracking, found frame -1"),
        ("uavdt", ["car"], {"../A": [1]}, r"can be file names, found '\.\./A'"),
    ],
)
def test_data_sets_that_do_not_fit_are_refused(index_of, tmp_path, name, classes, videos, message):
    index = index_of(classes, **videos)

    with pytest.raises(DataError, match=message):
        write_sequences(
            SEQUENCE_TOOLKITS[name], index, rows((0, (0, 0, 1, 1), 1, 0)), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
