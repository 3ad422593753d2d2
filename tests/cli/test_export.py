from __future__ import annotations

import gzip
import json
import re

import pytest

from vodet.cli import data


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def files(tmp_path):
    """Writes annotations of two videos, and results on them; returns what the command takes."""

    def write(names=("car", "bus"), first=1):
        images = [
            {
                "id": number,
                "video": video,
                "frame_number": frame,
                "file_name": f"{video}/{frame}.jpg",
            }
            for number, (video, frame) in enumerate(
                [("M0205", first), ("M0203", first), ("M0203", first + 1)]
            )
        ]
        document = {
            "images": [image | {"height": 480, "width": 640} for image in images],
            "annotations": [],
            "categories": [{"id": 4 + 3 * n, "name": name} for n, name in enumerate(names)],
        }
        results = [
            {"image_id": 2, "category_id": 7, "bbox": [1.5, 2, 3.25, 4], "score": 0.3},
            {"image_id": 0, "category_id": 4, "bbox": [5, 6, 7, 8], "score": 0.1},
            {"image_id": 2, "category_id": 4, "bbox": [9, 9, 9, 9], "score": 0.9},
        ]
        (tmp_path / "test.json").write_text(json.dumps(document))
        (tmp_path / "found.json.gz").write_bytes(gzip.compress(json.dumps(results).encode()))
        return tmp_path / "found.json.gz", tmp_path / "test.json", tmp_path / "out"

    return write


def export(files, kind, *options) -> int:
    return data.main(["export-results", *map(str, (*files, "--format", kind, *options))])


def test_a_file_for_each_sequence(files, tmp_path, capsys):
    assert export(files(), "uavdt") == 0

    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {
        "M0203.txt": "2,-1,9.0,9.0,9.0,9.0,0.9,1,-1\n2,-1,1.5,2.0,3.25,4.0,0.3,3,-1\n",
        "M0205.txt": "1,-1,5.0,6.0,7.0,8.0,0.1,1,-1\n",
    }
    text = capsys.readouterr().out
    assert f"3 detections of 2 videos, 3 frames: {tmp_path / 'out'}" in text
    assert "Skipped" not in text


def test_low_scores_are_left_out_and_counted(files, tmp_path, capsys):
    assert export(files(), "uavdt", "--score-threshold", "0.3") == 0  # 0.3 itself stays

    assert (tmp_path / "out/M0205.txt").read_text() == ""
    assert len((tmp_path / "out/M0203.txt").read_text().splitlines()) == 2
    assert "Skipped: 1 detections with scores below 0.3" in capsys.readouterr().out


def test_what_is_there_is_replaced_only_if_asked(files, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/M0205.txt").write_text("old")

    assert export(files(), "uavdt") == 1
    assert "out exists already. Choose another DST, or replace its files" in capsys.readouterr().err
    assert (tmp_path / "out/M0205.txt").read_text() == "old"
    assert export(files(), "uavdt", "--overwrite") == 0
    assert (tmp_path / "out/M0205.txt").read_text() != "old"


def test_vid_devkit(files, tmp_path, capsys):
    arguments = files(names=("zebra", "airplane"), first=0)

    assert export(arguments, "vid-devkit") == 0
    assert (tmp_path / "out").read_text().splitlines() == [
        "2 30 0.9 9.0 9.0 18.0 18.0",
        "2 1 0.3 1.5 2.0 4.75 6.0",
        "3 30 0.1 5.0 6.0 12.0 14.0",
    ]
    assert "frames are numbered 1 to 3, but the kit's val.txt has 176126" in capsys.readouterr().out
    (tmp_path / "val.txt").write_text("M0203/000001 8\nM0205/000000 9\n")
    options = ("--val-list", tmp_path / "val.txt", "--overwrite")
    assert export(arguments, "vid-devkit", *options) == 0
    assert [line.split()[0] for line in (tmp_path / "out").read_text().splitlines()] == [
        "8",
        "8",
        "9",
    ]
    assert "Warning" not in capsys.readouterr().out


def test_coco_has_the_ids_of_the_annotations_or_of_the_original(files, tmp_path):
    results, annotations, _ = files()
    original = {
        "images": [
            {"id": 900 + n, "file_name": name, "height": 480, "width": 640}
            for n, name in enumerate(["x.jpg", "M0203/2.jpg", "M0205/1.jpg", "M0203/1.jpg"])
        ],
        "categories": [{"id": 62, "name": "bus"}, {"id": 3, "name": "car"}],
    }
    (tmp_path / "original.json").write_text(json.dumps(original))

    plain, renumbered = tmp_path / "plain.json", tmp_path / "renumbered.json"
    assert export((results, annotations, plain), "coco") == 0
    options = ("--images-of", tmp_path / "original.json", "--score-threshold", "0.2")
    assert export((results, annotations, renumbered), "coco", *options) == 0

    assert json.loads(plain.read_text()) == json.loads(gzip.decompress(results.read_bytes()))
    assert json.loads(renumbered.read_text()) == [
        {"image_id": 901, "category_id": 62, "bbox": [1.5, 2.0, 3.25, 4.0], "score": 0.3},
        {"image_id": 901, "category_id": 3, "bbox": [9.0, 9.0, 9.0, 9.0], "score": 0.9},
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "expected all images of .*2 are missing there, such as 'M0205/1.jpg'"),
        ({"categories": []}, "expected all categories of .*2 are missing there, such as 'car'"),
        ({"images": "x"}, "not a COCO detection file"),
    ],
)
def test_an_original_that_does_not_fit_is_refused(files, tmp_path, capsys, change, message):
    image = {"id": 0, "height": 480, "width": 640}
    names = ["M0203/1.jpg", "M0203/2.jpg", "M0205/1.jpg"]
    document = {
        "images": [image | {"file_name": name} for name in names],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}],
    }
    (tmp_path / "original.json").write_text(json.dumps(document | change))

    assert export(files(), "coco", "--images-of", tmp_path / "original.json") == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("mot", [], "expected the classes of MOT Challenge (pedestrian), found bus, car"),
        (
            "uavdt",
            ["--val-list", "x"],
            "--val-list needs --format vid-devkit, found --format u",
        ),
        (
            "kitti",
            ["--images-of", "x"],
            "--images-of needs --format coco, found --format kitti",
        ),
        ("coco", ["--images-of", "x"], "Looked for a COCO detection file (.json or .json.gz) at"),
    ],
)
def test_faults_are_named_and_nothing_is_written(files, tmp_path, capsys, kind, options, message):
    assert export(files(), kind, *options) == 1

    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_of_other_annotations_are_refused(files, tmp_path, capsys):
    results, annotations, target = files()
    entry = {"image_id": 5, "category_id": 4, "bbox": [0, 0, 1, 1], "score": 1}
    results.write_bytes(gzip.compress(json.dumps([entry]).encode()))

    assert export((results, annotations, target), "uavdt") == 1
    assert "1 of 1 entries have an image id" in capsys.readouterr().err


def test_help_has_formats_and_examples(capsys):
    with pytest.raises(SystemExit):
        data.main(["export-results", "--help"])

    text = capsys.readouterr().out
    assert "examples:\n" in text
    assert all(f"  {name} " in text for name in ("vid-devkit", "uavdt", "kitti", "mot", "coco"))
