from __future__ import annotations

import json

import pytest

from vodet.data.formats.coco import read_coco, read_coco_ids
from vodet.errors import ConfigError, DataError, FrameError


def document():
    return {
        "info": {"year": 2017},
        "images": [
            {"id": 9, "file_name": "b/2.jpg", "height": 48, "width": 64, "license": 1},
            {"id": 4, "file_name": "b/1.jpg", "height": 48, "width": 64},
        ],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 18, "bbox": [1, 2, 3.5, 4], "area": 7.25},
            {"id": 5, "image_id": 9, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
            {"id": 6, "image_id": 4, "category_id": 3, "bbox": [5, 5, 0, 9]},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car", "supercategory": "v"}],
    }


@pytest.fixture
def source(tmp_path):
    def write(changed):
        path = tmp_path / "coco.json"
        path.write_text(json.dumps(changed))
        return path

    return write


def test_images_are_videos_of_one_frame(source, convert):
    found = convert(read_coco(source(document())))

    assert found.frames == {
        ("b/2", 0): [("car", (0, 0, 9, 9), None, 1)],
        ("b/1", 0): [("dog", (1, 2, 3.5, 4), None, 0)],
    }
    assert [a["area"] for a in found.annotations] == [81, 7.25]
    assert found.document["categories"] == [
        {"id": 18, "name": "dog", "supercategory": "dog"},
        {"id": 3, "name": "car", "supercategory": "v"},
    ]
    assert found.summary.skipped == {"boxes without area": 1}


@pytest.mark.parametrize(
    ("table", "entry", "field", "value", "message"),
    [
        ("images", 1, "id", 9, "images.id: expected unique values, found 9 twice"),
        ("images", 1, "file_name", "b/2.jpg", r"images\.file_name: expected unique.* 'b/2\.jpg'"),
        ("images", 1, "file_name", "b/2.png", r"video 'b/2', found 'b/2\.jpg' and 'b/2\.png'"),
        (
            "images",
            0,
            "file_name",
            "../1.jpg",
            r"images\[0\]\.file_name: expected a path that stays below",
        ),
        ("images", 0, "height", 0, r"not a COCO detection file: .*\$\.images\[0\]\.height"),
        ("annotations", 2, "image_id", 7, r"annotations\[2\]\.image_id: expected .* in images.* 7"),
        ("annotations", 0, "category_id", 1, r"annotations\[0\]\.category_id: .* found 1"),
        ("annotations", 0, "bbox", [1, 2], r"\$\.annotations\[0\]\.bbox"),
        ("annotations", 0, "bbox", None, r"\$\.annotations\[0\]\.bbox"),
        ("categories", 0, "name", "car", "categories.name: expected unique values"),
    ],
)
def test_faults_are_named(source, table, entry, field, value, message):
    faulty = document()
    faulty[table][entry][field] = value

    with pytest.raises(DataError, match=message):
        read_coco(source(faulty))


def test_ids_by_name_of_files_with_and_without_annotations(source):
    changed = document()
    expected = {"b/2.jpg": 9, "b/1.jpg": 4}, {"dog": 18, "car": 3}

    assert read_coco_ids(source(changed)) == expected
    del changed["annotations"]
    assert read_coco_ids(source(changed)) == expected
    changed["images"][1]["file_name"] = "b/2.jpg"
    with pytest.raises(DataError, match=r"images\.file_name: expected unique values, found 'b/2"):
        read_coco_ids(source(changed))


def test_missing_file_and_images(source, convert, image, tmp_path):
    with pytest.raises(DataError, match="Looked for a COCO detection file"):
        read_coco(tmp_path / "none.json")
    path = source(document())
    with pytest.raises(ConfigError, match="--check-sizes: expected the image root"):
        read_coco(path, check_sizes=True)
    image(tmp_path / "b/2.jpg", 48, 64)
    with pytest.raises(FrameError, match=r"Expected an image at .*1\.jpg"):
        convert(read_coco(path, images=tmp_path, check_sizes=True))
    image(tmp_path / "b/1.jpg", 48, 60)
    with pytest.raises(FrameError, match=r"1\.jpg: expected 48 x 64 .* found 48 x 60"):
        convert(read_coco(path, images=tmp_path, check_sizes=True))


def test_boxes_outside_the_image_are_clipped_or_counted(source, convert):
    changed = document()
    changed["annotations"][0]["bbox"] = [-1, 2, 3.5, 4]
    changed["annotations"][1]["bbox"] = [64, 0, 9, 9]

    found = convert(read_coco(source(changed)))

    assert found.frames["b/1", 0] == [("dog", (0, 2, 2.5, 4), None, 0)]
    assert found.summary.clipped == 1
    assert found.summary.skipped == {"boxes entirely outside the image": 1, "boxes without area": 1}


def frames_of_videos():
    """A file whose images are out of order, with every name of a track."""
    tracks = [{"id_track": "a"}, {"track_id": 5}, {"instance_id": 0}, {"attributes": {}}]
    tracks.append({"attributes": {"track_id": 7, "occluded": True}})
    names = ["v/3.jpg", "v/1.jpg", "w/2.jpg", "w/3.jpg", "w/4.jpg"]
    return {
        "images": [
            {"id": i, "file_name": name, "height": 48, "width": 64} for i, name in enumerate(names)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4], **track}
            for i, track in enumerate(tracks)
        ],
        "categories": [{"id": 1, "name": "car"}],
    }


def test_frames_of_videos_and_their_tracks(source, convert):
    found = convert(read_coco(source(frames_of_videos()), videos_from="folder"))

    assert {key: box[2] for key, (box,) in found.frames.items()} == {
        ("v", 1): "5",
        ("v", 3): "a",
        ("w", 2): "0",
        ("w", 3): None,
        ("w", 4): "7",
    }
    assert found.images[0]["file_name"] == "v/1.jpg"
    assert [a.get("occluded") for a in found.annotations] == [None] * 4 + ["1"]


@pytest.mark.parametrize("number", ["frame_number", "frame_id"])
def test_videos_from_fields(source, convert, number):
    changed = frames_of_videos()
    for place, image in enumerate(changed["images"]):
        image |= {"video_id": place % 2, number: place}
    changed["images"][0]["is_annotated"] = False
    changed["videos"] = [{"id": 0, "name": "even", "attributes": ["night"]}]
    with pytest.raises(ConfigError, match="--videos-from 'field'"):
        read_coco(source(changed))

    found = convert(read_coco(source(changed), videos_from="field"))

    assert list(found.frames) == [("even", 0), ("even", 2), ("even", 4), ("1", 1), ("1", 3)]
    assert found.images[0]["is_annotated"] is False
    assert found.document["videos"] == [{"id": 0, "name": "even", "attributes": ["night"]}]


def test_frames_need_a_choice(source):
    changed = frames_of_videos()
    for place, image in enumerate(changed["images"]):
        image["file_name"] = f"street_{place}.jpg"

    with pytest.raises(ConfigError, match=r"coco\.json: .*'street_0\.jpg'.*--videos-from"):
        read_coco(source(changed))
