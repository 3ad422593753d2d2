from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from vodet.data.formats.youtube_vis import read_youtube_vis
from vodet.errors import DataError


def runs(*, compressed: bool):
    """The mask of rows 2 to 4 and columns 3 to 6 of an image of 6 x 8 pixels."""
    pixels = np.zeros((6, 8), np.uint8, order="F")
    pixels[2:5, 3:7] = 1
    counts = coco_mask.encode(pixels)["counts"].decode()
    listed = [20, 3, 3, 3, 3, 3, 3, 3, 7]
    return {"size": [6, 8], "counts": counts if compressed else listed}


def document():
    names = [f"v/{number:05d}.jpg" for number in (0, 5, 10)]
    return {
        "videos": [
            {"id": 1, "width": 8, "height": 6, "length": 3, "file_names": names},
            {"id": 2, "width": 8, "height": 6, "length": 1, "file_names": ["w/1.jpg"]},
        ],
        "annotations": [
            {
                "id": 4,
                "video_id": 1,
                "category_id": 9,
                "bboxes": [[1, 2, 3, 3.5], None, [0, 0, 2, 2]],
                "segmentations": [None, runs(compressed=True), None],
                "areas": [10.5, None, 4],
                "iscrowd": 0,
            },
            {
                "id": 5,
                "video_id": 1,
                "category_id": 3,
                "segmentations": [
                    runs(compressed=True),
                    runs(compressed=False),
                    [[1, 1, 4, 1, 4, 5], [0, 3, 2, 3, 2, 4]],
                ],
                "iscrowd": 1,
            },
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "car", "supercategory": "v"}],
    }


@pytest.fixture
def source(tmp_path):
    def write(changed):
        path = tmp_path / "vis.json"
        path.write_text(json.dumps(changed))
        return path

    return write


def test_boxes_and_boxes_of_masks(source, convert):
    found = convert(read_youtube_vis(source(document())))

    assert found.frames == {
        ("v", 0): [("dog", (1, 2, 3, 3.5), "4", 0), ("car", (3, 2, 4, 3), "5", 1)],
        ("v", 1): [("car", (3, 2, 4, 3), "5", 1)],  # the dog has boxes, but none here
        ("v", 2): [("dog", (0, 0, 2, 2), "4", 0), ("car", (0, 1, 4, 4), "5", 1)],
        ("w", 0): [],
    }
    assert found.images[1]["file_name"] == "v/00005.jpg"
    assert found.document["categories"][1] == {"id": 3, "name": "car", "supercategory": "v"}


def test_videos_in_one_folder_are_named_by_their_id(source, convert):
    changed = document()
    changed["videos"][1]["file_names"] = ["v/7.jpg"]

    assert {video for video, _ in convert(read_youtube_vis(source(changed))).frames} == {"1", "2"}


@pytest.mark.parametrize(
    ("place", "field", "value", "found"),
    [
        (("annotations", 0), "bboxes", [None], r"annotations\[0\]\.bboxes: expected 3 .*found 1"),
        (("annotations", 1), "segmentations", None, r"annotations\[1\]: expected bboxes or"),
        (("annotations", 0), "video_id", 7, r"annotations\[0\]\.video_id: .*videos, found 7"),
        (("annotations", 0), "category_id", 7, r"category_id: .*categories, found 7"),
        (("annotations", 0), "bboxes", [[1, 2]] * 3, r"\$\.annotations\[0\]\.bboxes\[0\]"),
        (("annotations", 0), "bboxes", [[1, 2, 3, float("nan")]] * 3, r"frame 0: .*finite"),
        (("annotations", 1), "segmentations", [[[1, 2, 3]]] * 3, r"annotations\[1\], .*3 or more"),
        (
            ("annotations", 1),
            "segmentations",
            [{"size": [6, 8], "counts": [4, 4]}] * 3,
            r"frame 0: .*6 x 8 pixels, found 8",
        ),
        (("videos", 1), "id", 1, "videos.id: expected unique values, found 1 twice"),
        (("videos", 1), "file_names", ["../x.jpg"], r"videos\[1\]\.file_names: .*stays below"),
    ],
)
def test_faults_are_named(source, place, field, value, found):
    changed = document()
    changed[place[0]][place[1]][field] = value

    with pytest.raises(DataError, match=found) as caught:
        [list(video.frames) for video in read_youtube_vis(source(changed)).videos]
    assert "vis.json" in str(caught.value)


def test_a_file_without_annotations_is_refused(source, tmp_path):
    changed = document()
    del changed["annotations"]

    with pytest.raises(DataError, match="missing required field `annotations`"):
        read_youtube_vis(source(changed))
    with pytest.raises(DataError, match=r"YouTube-VIS.*none\.json"):
        read_youtube_vis(tmp_path / "none.json")
