from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from miniatures import mot17
from vodet.cli import convert, data
from vodet.data.annotations.st_coco import read_st_coco


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def mot(tmp_path):
    for name in ("A", "B"):
        folder = tmp_path / "mot" / name
        (folder / "img1").mkdir(parents=True)
        (folder / "gt").mkdir()
        cv2.imwrite(str(folder / "img1/000001.jpg"), np.zeros((48, 64), np.uint8))
        (folder / "seqinfo.ini").write_text("[Sequence]\nseqLength=1\nimWidth=64\nimHeight=48\n")
        (folder / "gt/gt.txt").write_text(
            "1,1,-2,2,9,4,1,1,1\n1,2,1,2,3,4,0,8,1\n1,3,1,2,3,4,0,3,1\n"
        )
    return tmp_path / "mot"


def run(*arguments) -> int:
    return data.main([str(argument) for argument in arguments])


def test_convert_prints_what_was_written_and_what_was_not(mot, tmp_path, capsys):
    target = tmp_path / "out.json"

    assert run("convert", "mot", mot, target, "--sequences", "B") == 0

    text = capsys.readouterr().out
    assert f"1 videos, 1 frames: {target}" in text
    assert "Clipped: 1 boxes that stuck out of the image" in text
    assert "Skipped: 1 objects of other classes (vehicles, occluders)" in text
    index = read_st_coco(target)
    assert (index.num_boxes, index.video_name(0)) == (2, "B")


def test_drop_ignored_and_overwrite(mot, tmp_path, capsys):
    target = tmp_path / "out.json"
    target.write_text("{}")

    assert run("convert", "mot", mot, target) == 1
    assert "exists already. Choose another DST, or replace it with --overwrite" in (
        capsys.readouterr().err
    )
    assert run("convert", "mot", mot, target, "--overwrite", "--drop-ignored") == 0
    assert read_st_coco(target).num_boxes == 2


def test_a_folder_gets_a_file_of_every_split(tmp_path, capsys):
    mot17(tmp_path / "mot17")
    target = tmp_path / "out"

    assert run("convert", "mot", tmp_path / "mot17", target) == 0

    frames = {path.name: read_st_coco(path).num_frames for path in target.iterdir()}
    assert frames == {"train.json": 10, "half-train.json": 6, "half-val.json": 4}
    (target / "train.json").unlink()
    assert run("convert", "mot", tmp_path / "mot17", target) == 1
    assert f"{target}/half-train.json exists already" in capsys.readouterr().err
    assert not (target / "train.json").exists()  # nothing begun
    options = ("--split", "half-val", "--overwrite")
    assert run("convert", "mot", tmp_path / "mot17", target, *options) == 0
    assert not (target / "train.json").exists()


def test_a_wrong_source_leaves_nothing(tmp_path, capsys):
    assert run("convert", "mot", tmp_path / "nowhere", tmp_path / "out") == 1
    assert "nowhere is not a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_wrong_split_names_the_right_ones(mot, tmp_path, capsys):
    assert run("convert", "mot", mot, tmp_path / "out.json", "--split", "val") == 1
    assert (
        "--split: expected one of train, half-train, half-val; found val" in capsys.readouterr().err
    )


def test_to_cocovid(mot, tmp_path, capsys):
    run("convert", "mot", mot, tmp_path / "st.json")

    assert run("to-cocovid", tmp_path / "st.json", tmp_path / "cv.json") == 0
    assert run("convert", "cocovid", tmp_path / "cv.json", tmp_path / "back.json") == 0

    assert [
        video["name"] for video in json.loads((tmp_path / "cv.json").read_text())["videos"]
    ] == [
        "A",
        "B",
    ]
    assert read_st_coco(tmp_path / "back.json").num_boxes == 4
    assert "2 videos, 2 frames" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["convert"], ["to-cocovid"]])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*command, "--help")

    assert ended.value.code == 0
    assert "examples:\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", convert.FORMATS)
def test_every_format_has_a_reader_that_takes_its_options(name, tmp_path, capsys):
    source = tmp_path / "missing"
    split = ["--split", "train"] if "--split" in convert.FORMATS[name].options else []

    assert run("convert", name, source, tmp_path / "out.json", *split) == 1

    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert str(source) in error
    assert list(tmp_path.iterdir()) == []


def test_splits_in_the_help(capsys):
    with pytest.raises(SystemExit):
        run("convert", "uavdt", "--help")

    assert "official split: train, test" in capsys.readouterr().out


def test_a_split_that_is_not_whole_is_told(tmp_path, capsys):
    xml = "<annotation><size><width>4</width><height>3</height></size></annotation>"
    for kind, name, content in (("Annotations", "000000.xml", xml), ("Data", "000000.JPEG", "")):
        folder = tmp_path / "ILSVRC2015" / kind / "VID/val/a"
        folder.mkdir(parents=True)
        (folder / name).write_text(content)

    options = ("--split", "val", "--workers", "1")
    assert (
        run("convert", "imagenet-vid", tmp_path / "ILSVRC2015", tmp_path / "o.json", *options) == 0
    )

    assert "Warning: the official split has 176126 frames, found 1" in capsys.readouterr().out
