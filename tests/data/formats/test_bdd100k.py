from __future__ import annotations

import json

import pytest

from vodet.data.formats.bdd100k import read_bdd100k
from vodet.errors import DataError

SIDES = ("x1", "y1", "x2", "y2")


def label(category: str, *corners: float, name: str = "7", **attributes):
    return {
        "id": name,
        "category": category,
        "attributes": {"crowd": False, "occluded": False} | attributes,
        "box2d": dict(zip(SIDES, corners, strict=True)),
        "box3d": None,
    }


def frame(number: int, *labels, video: str = "b1", **other):
    name = f"{video}-{number + 1:07d}.jpg"
    entry = {"name": name, "videoName": video, "frameIndex": number, "labels": list(labels)}
    return entry | other


@pytest.fixture
def bdd(tmp_path, image):
    """Writes a file in the layout of the data set, and the images of its frames."""

    def write(frames, name: str = "b1", split: str = "train"):
        root = tmp_path / "bdd"
        for entry in frames if isinstance(frames, list) else frames["frames"]:
            video = entry.get("videoName") or name
            image(root / f"images/track/{split}/{video}/{entry['name']}", 48, 64)
        path = root / f"labels/box_track_20/{split}/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(frames))
        return root

    return write


def test_boxes_include_their_ends_and_distractors_are_ignored(bdd, convert):
    frames = [
        frame(1, labels=None),
        frame(
            0,
            label("car", 4, 5, 10.5, 12, occluded=True),
            label("bus", 0, 0, 63, 47, name="8", crowd=True),
            label("other vehicle", 1, 1, 4, 4),
        ),
    ]

    found = convert(read_bdd100k(bdd(frames), split="train"))

    assert list(found.frames) == [("b1", 0), ("b1", 1)]
    assert found.frames["b1", 0][:2] == [
        ("car", (4, 5, 7.5, 8), "7", 0),
        ("bus", (0, 0, 64, 48), "8", 1),
    ]
    assert [box[2:] for box in found.frames["b1", 0][2:]] == [(None, 1)] * 8  # for every class
    assert found.annotations[0]["occluded"] == "1"
    assert found.images[0]["file_name"] == "images/track/train/b1/b1-0000001.jpg"


def test_one_list_of_several_videos_and_files_of_2020(bdd, convert):
    old = {"index": 0, "frameIndex": None, "videoName": None}
    root = bdd([frame(0, label("car", 1, 1, 4, 4, Crowd=True, crowd=None), **old)], "b1")
    both = bdd({"frames": [frame(0, video="v"), frame(0, video="w")]}, "all")
    file = root / "labels/box_track_20/train/all.json"

    assert list(convert(read_bdd100k(file, images=both, split="train")).frames) == [
        ("v", 0),
        ("w", 0),
    ]
    file.unlink()
    assert convert(read_bdd100k(root, split="train")).frames["b1", 0][0][3] == 0
    changed = [frame(0, label("car", 1, 1, 4, 4), **old)]
    changed[0]["labels"][0]["attributes"] = {"Crowd": True}
    assert convert(read_bdd100k(bdd(changed), split="train")).frames["b1", 0][0][3] == 1


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        ([frame(0, label("dog", 1, 1, 2, 2))], r"\[0\]\.labels\[0\]\.category: .*'dog'"),
        ([frame(0, label("car", 1, 1, 2, float("nan")))], r"labels\[0\]\.box2d: .*finite"),
        ([frame(0), frame(0)], r"\[1\]: expected one frame 0 of video 'b1'"),
        ([frame(0, frameIndex=None)], r"\[0\]: expected frameIndex or index"),
        ([frame(0, videoName="../x")], r"\[0\]\.videoName: .*stays below"),
        ([frame(0) | {"labels": [{"id": 1}]}], r"\$\[0\]\.labels\[0\]"),
        ({"frames": []} | {"frames": [frame(0, labels=3)]}, r"Expected `array"),
    ],
)
def test_faults_are_named(bdd, frames, found):
    root = bdd(frames)

    with pytest.raises(DataError, match=found) as caught:
        read_bdd100k(root, split="train")
    assert "b1.json" in str(caught.value)


def test_what_is_missing(bdd, tmp_path):
    root = bdd([frame(0)])
    with pytest.raises(DataError, match=r"BDD100K \(\.json\) in .*bdd"):
        read_bdd100k(root)
    with pytest.raises(DataError, match=r"BDD100K \(\.json\) at .*none"):
        read_bdd100k(tmp_path / "none")
