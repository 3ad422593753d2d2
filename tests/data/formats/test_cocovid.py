from __future__ import annotations

import json

import numpy as np
import pytest

from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.formats.cocovid import read_cocovid, write_cocovid
from vodet.data.formats.records import Box, Frame, Records, Video, categories_of
from vodet.data.formats.writer import write_st_coco
from vodet.errors import ConfigError, DataError


@pytest.fixture
def st_coco(tmp_path):
    """Two videos, frames with gaps, a track of each, a crowd and a frame that is not annotated."""
    car, crowd = Box(1, (1, 2, 4, 6), "a"), Box(0, (0, 0, 9, 9), is_ignored=True)
    first = [
        Frame("a/3.jpg", 3, (48, 64), [car]),
        Frame("a/5.jpg", 5, (48, 64), [], is_annotated=False),
        Frame("a/8.jpg", 8, (48, 64), [car._replace(xyxy=(2, 2, 5, 6)), car._replace(track="b")]),
    ]
    second = [Frame("b/0.jpg", 0, (30, 40), [car, crowd])]
    videos = [Video("a", first), Video("b", second)]
    path = tmp_path / "st_coco.json"
    write_st_coco(Records(categories_of(["person", "car"]), iter(videos)), path)
    return path


def test_frames_without_gaps_and_tracks_through_the_set(st_coco, tmp_path):
    target = tmp_path / "cocovid.json"

    summary = write_cocovid(read_st_coco(st_coco), target)

    document = json.loads(target.read_text())
    assert document["videos"] == [
        {"id": 0, "name": "a", "height": 48, "width": 64},
        {"id": 1, "name": "b", "height": 30, "width": 40},
    ]
    assert [(i["video_id"], i["frame_id"]) for i in document["images"]] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
    ]
    assert [i["is_vid_train_frame"] for i in document["images"]] == [True, False, True, True]
    assert [
        (a["image_id"], a["video_id"], a.get("instance_id")) for a in document["annotations"]
    ] == [
        (0, 0, 0),
        (2, 0, 0),
        (2, 0, 1),
        (3, 1, 2),
        (3, 1, None),
    ]
    assert document["annotations"][0]["bbox"] == [1, 2, 3, 4]
    assert document["annotations"][4]["iscrowd"] == 1
    assert (summary.frames, summary.support_frames) == (4, 1)
    assert (summary.boxes, summary.ignored) == ({1: 4}, {0: 1})


def test_there_and_back_nothing_is_lost(st_coco, tmp_path, convert):
    before = read_st_coco(st_coco)
    write_cocovid(before, tmp_path / "cocovid.json")

    after = convert(read_cocovid(tmp_path / "cocovid.json")).index

    for name in ("boxes", "labels", "track_ids", "areas", "iscrowd", "box_starts", "category_ids"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    for name in ("frame_numbers", "sizes", "video_starts", "is_annotated"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.class_names == before.class_names
    assert [after.video_name(video) for video in range(2)] == ["a", "b"]
    assert [after.file_name(row) for row in range(4)] == [before.file_name(row) for row in range(4)]


def test_files_as_mmtracking_writes_them(tmp_path, convert):
    images = [
        {"id": 1, "video_id": 1, "frame_id": 0, "file_name": "a.jpg", "height": 9, "width": 9}
    ]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "instance_id": 12}
    document = {
        "videos": [{"id": 1, "name": "a"}],
        "images": images,
        "annotations": [box | {"video_id": 1, "is_occluded": False}],
        "categories": [{"id": 1, "name": "car"}],
    }
    (tmp_path / "cocovid.json").write_text(json.dumps(document))

    found = convert(read_cocovid(tmp_path / "cocovid.json"))

    assert found.frames == {("a", 0): [("car", (1, 2, 3, 4), "0", 0)]}
    assert found.document["categories"][0]["id"] == 1


def test_targets_and_sources_are_checked(st_coco, tmp_path):
    with pytest.raises(ConfigError, match="exists already"):
        write_cocovid(read_st_coco(st_coco), st_coco)
    with pytest.raises(DataError, match="found none"):
        read_cocovid(tmp_path / "none.json")
    faulty = json.loads(st_coco.read_text())
    faulty["annotations"][1]["category_id"] = 7
    st_coco.write_text(json.dumps(faulty))
    with pytest.raises(DataError, match=r"annotations\[1\]\.category_id.*7"):
        read_cocovid(st_coco)


def test_annotation_ids_begin_with_1(tmp_path):
    # pycocotools takes an annotation with id 0 for no match.
    boxes = [Box(0, (0, 0, 9, 9)), Box(0, (5, 5, 9, 9))]
    frame = Frame("a/0.jpg", 0, (48, 64), boxes)
    records = Records(categories_of(["car"]), iter([Video("a", [frame])]))
    write_st_coco(records, tmp_path / "st.json")
    write_cocovid(read_st_coco(tmp_path / "st.json"), tmp_path / "cv.json")
    for name in ("st.json", "cv.json"):
        annotations = json.loads((tmp_path / name).read_text())["annotations"]
        assert [annotation["id"] for annotation in annotations] == [1, 2]
