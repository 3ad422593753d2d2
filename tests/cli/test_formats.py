from __future__ import annotations

import json
from pathlib import Path

import pytest

import miniatures
from vodet.cli import data
from vodet.cli.formats import FORMATS, recognised_formats
from vodet.data.annotations.st_coco import read_st_coco

IMAGE = {"id": 1, "file_name": "a/1.jpg", "height": 48, "width": 64}
TABLES = {"annotations": [], "categories": [{"id": 1, "name": "car"}]}
MVI = '<sequence name="MVI_1"/>'
VIDEO = {"id": 1, "file_names": ["a/1.jpg"], "height": 48, "width": 64}
NAMED = {"id": 1, "name": "a"}
FRAME = {"name": "a-1.jpg", "frameIndex": 0, "labels": []}
# The least that a data set of each format has: contents by path. SRC is the folder, or its file.
LEAST = {
    "imagenet-vid": {"Annotations/VID/train/a/000000.xml": "<annotation/>"},
    "imagenet-det": {"Annotations/DET/train/a.xml": "<annotation/>"},
    "kitti-mots": {"instances_txt/0000.txt": ""},
    "kitti-tracking": {"training/label_02/0000.txt": ""},
    "cityscapes": {"gtFine/train/a/a_000000_000019_gtFine_polygons.json": "{}"},
    "uavdt": {"GT/M0101_gt_whole.txt": ""},
    "mot": {"a/gt/gt.txt": "", "a/img1/000001.jpg": ""},
    "coco": {"a.json": {"images": [IMAGE]} | TABLES},
    "cocovid": {"a.json": {"images": [IMAGE | {"video_id": 1}], "videos": [NAMED]} | TABLES},
    "yolo": {"data.yaml": "train: images\nnames: [car]\n", "images/1.jpg": ""},
    "voc": {"Annotations/a/1.xml": "<annotation/>", "JPEGImages/a/1.jpg": ""},
    "cvat-video": {"annotations.xml": "<annotations/>", "images/frame_000000.jpg": ""},
    "youtube-vis": {"a.json": {"videos": [VIDEO]} | TABLES},
    "label-studio-video": {"a.json": [{"id": 1, "data": {"video": "a"}, "annotations": []}]},
    "bdd100k": {"labels/box_track_20/train/a.json": [FRAME]},
    "visdrone-vid": {"annotations/a.txt": "", "sequences/a/0000001.jpg": ""},
    "ua-detrac": {"DETRAC-Train-Annotations-XML/MVI_1.xml": MVI},
}
FILES = {
    "cocovid": "a.json",
    "coco": "a.json",
    "youtube-vis": "a.json",
    "label-studio-video": "a.json",
}


def write(root, contents):
    for path, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content)
        miniatures.write(root / path, text)


def run(*arguments) -> int:
    return data.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_recognised_and_no_other(name, tmp_path):
    write(tmp_path, LEAST[name])

    assert recognised_formats(tmp_path / FILES.get(name, ".")) == [name]


@pytest.mark.parametrize(
    "contents",
    [
        {},
        {"a.json": "{"},
        {"a.json": "[1]"},
        {"a.json": {"images": 3, "videos": {}}},
        {"a.json": {"images": [IMAGE | {"video": "v", "frame_number": 1}]} | TABLES},  # ST-COCO
        {"a.xml": "<x/>"},
        {"data.yaml": "names: ["},
        {"train/a/1.jpg": ""},
    ],
)
def test_what_is_of_no_format(contents, tmp_path, capsys):
    write(tmp_path, contents)

    for source in (tmp_path, *(tmp_path / name for name in contents), tmp_path / "none"):
        assert recognised_formats(source) == []
    assert run("convert", "auto", tmp_path, tmp_path / "out.json") == 1
    error = capsys.readouterr().err
    assert str(tmp_path) in error
    assert "ua-detrac" in error


def test_auto_passes_options_on(tmp_path, capsys):
    images = [IMAGE | {"id": i, "file_name": f"a/{i}.jpg"} for i in range(4)]
    write(tmp_path, {"a.json": {"images": images} | TABLES})
    target = tmp_path / "out.json"

    assert run("convert", "auto", tmp_path / "a.json", target) == 1
    assert "--videos-from" in capsys.readouterr().err
    options = ("--videos-from", "folder", "--overwrite")
    assert run("convert", "auto", tmp_path / "a.json", target, *options) == 0

    assert "coco" in capsys.readouterr().out
    assert read_st_coco(target).num_videos == 1
    with pytest.raises(SystemExit):
        run("convert", "auto", tmp_path / "a.json", target, "--split", "train")
    assert "--split" in capsys.readouterr().err


def test_data_of_two_formats_are_refused(tmp_path, capsys):
    write(tmp_path, LEAST["imagenet-vid"] | LEAST["imagenet-det"])

    assert run("convert", "auto", tmp_path, tmp_path / "out.json") == 1
    assert "imagenet-vid and imagenet-det" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["coco", "youtube-vis", "yolo", "cvat-video"])
def test_check_says_which_converter_to_use(name, tmp_path, capsys):
    write(tmp_path, LEAST[name])
    source = tmp_path / FILES.get(name, next(iter(LEAST[name])))

    assert run("check", source) == 1
    assert f"vodet-data convert {name} {source}" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", FORMATS)
def test_the_page_on_data_sets_describes_each_format(name):
    page = (Path(__file__).parents[2] / "docs/data-sets.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))

    assert all(split in row or "those in" in row for split in FORMATS[name].splits)
