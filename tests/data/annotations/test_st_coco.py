from __future__ import annotations

import copy
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.annotations.random_document import random_document
from vodet.data.annotations.index import VideoIndex
from vodet.data.annotations.st_coco import read_st_coco
from vodet.errors import DataError


def image(image_id: int, video: str, frame_number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": image_id,
        "file_name": f"{video}/{frame_number:06}.jpg",
        "video": video,
        "frame_number": frame_number,
        "height": 120,
        "width": 160,
    } | fields


def annotation(annotation_id: int, image_id: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 7,
        "bbox": [10, 20, 30.5, 40],
    } | fields


@pytest.fixture
def document() -> dict[str, Any]:
    return {
        "info": {},
        "images": [image(10, "b", 0), image(11, "b", 1), image(5, "a", 3)],
        "annotations": [
            annotation(0, 10, id_track="4", area=99.5),
            annotation(1, 10, id_track=2, category_id=-1, iscrowd=1),
            annotation(2, 5, ignore=True),
            annotation(3, 11, id_track="2", category_id=-1),
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": -1, "name": "cat", "supercategory": "x"}],
    }


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(document: Any) -> Path:
        path = tmp_path / "annotations.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write


def assert_same(first: VideoIndex, second: VideoIndex) -> None:
    assert first.class_names == second.class_names
    assert first.attribute_names == second.attribute_names
    for name in ("file_names", "video_names"):
        assert list(getattr(first, name)) == list(getattr(second, name))
    for name, value in vars(first).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(second, name), err_msg=name)


def test_columns(document: dict[str, Any], write: Any) -> None:
    path = write(document)
    index = read_st_coco(path)
    assert index.source == str(path)
    assert index.class_names == ("cat", "dog")
    assert index.category_ids.tolist() == [-1, 7]
    assert list(index.video_names) == ["b", "a"]
    assert index.video_starts.tolist() == [0, 2, 3]
    assert list(index.file_names) == ["b/000000.jpg", "b/000001.jpg", "a/000003.jpg"]
    assert index.image_ids.tolist() == [10, 11, 5]
    assert index.frame_numbers.tolist() == [0, 1, 3]
    assert index.sizes.tolist() == [[120, 160]] * 3
    assert index.is_annotated.all()
    assert index.box_starts.tolist() == [0, 2, 3, 4]
    assert index.boxes.tolist() == [[10, 20, 40.5, 60]] * 4
    assert index.labels.tolist() == [1, 0, 0, 1]
    assert index.areas.tolist() == [99.5, 1220, 1220, 1220]
    assert index.iscrowd.tolist() == [False, True, False, True]
    first, second, third, unknown = index.track_ids.tolist()
    assert {first, second} == {0, 1}
    assert third == second  # 2 and "2" are one identity
    assert unknown == -1


def test_order_in_the_file_does_not_matter(document: dict[str, Any], write: Any) -> None:
    expected = read_st_coco(write(document))
    document["images"] = [document["images"][row] for row in (1, 2, 0)]
    document["categories"].reverse()
    assert_same(read_st_coco(write(document)), expected)


def test_cocovid_names(document: dict[str, Any], write: Any) -> None:
    expected = read_st_coco(write(document))
    document["videos"] = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    for entry in document["images"]:
        entry["video_id"] = {"a": 1, "b": 2}[entry.pop("video")]
        entry["frame_id"] = entry.pop("frame_number")
    for entry in document["annotations"]:
        if "id_track" in entry:
            entry["instance_id"] = int(entry.pop("id_track"))
    assert_same(read_st_coco(write(document)), expected)


def test_attributes_of_videos(document: dict[str, Any], write: Any) -> None:
    plain = read_st_coco(write(document))
    assert plain.attribute_names == ()
    assert plain.video_attributes.shape == (2, 0)
    document["videos"] = [
        {"id": 0, "name": "a", "attributes": ["night", "fog", "night"]},
        {"id": 1, "name": "c", "attributes": ["snow"]},
        {"id": 2, "name": "b", "attributes": ["fog"]},
    ]
    index = read_st_coco(write(document))
    assert index.attribute_names == ("fog", "night")  # as the videos come: b, then a
    assert index.video_attributes.tolist() == [[True, False], [True, True]]
    document["videos"][0]["attributes"] = None
    del document["videos"][2]["attributes"]
    assert_same(read_st_coco(write(document)), plain)


def test_gzip(document: dict[str, Any], write: Any, tmp_path: Path) -> None:
    path = tmp_path / "annotations.json.gz"
    path.write_bytes(gzip.compress(json.dumps(document).encode()))
    assert_same(read_st_coco(path), read_st_coco(write(document)))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(
        DataError, match=r"Cannot read .*annotations.json.gz: Compressed file ended"
    ):
        read_st_coco(path)


def test_is_annotated(document: dict[str, Any], write: Any) -> None:
    document["images"][0]["is_annotated"] = 0
    document["images"][1]["is_annotated"] = True
    assert read_st_coco(write(document)).is_annotated.tolist() == [False, True, True]


def test_optional_fields_may_be_null(document: dict[str, Any], write: Any) -> None:
    document["annotations"] = [annotation(0, 10, id_track=None, area=None)]
    index = read_st_coco(write(document))
    assert (index.track_ids.tolist(), index.areas.tolist()) == ([-1], [1220])


def test_no_annotations(document: dict[str, Any], write: Any) -> None:
    index = read_st_coco(write(document | {"annotations": []}))
    assert index.boxes.shape == (0, 4)
    assert index.box_starts.tolist() == [0, 0, 0, 0]


def test_names_beyond_ascii(document: dict[str, Any], write: Any) -> None:
    document["images"] = [image(10, "vidéo 日本", 0), image(11, "vidéo 日本", 1), image(5, "a", 3)]
    index = read_st_coco(write(document))
    assert index.video_name(0) == "vidéo 日本"
    assert index.file_name(1) == "vidéo 日本/000001.jpg"


def test_nan_and_byte_order_mark_outside_the_format_are_ignored(
    document: dict[str, Any], write: Any
) -> None:
    expected = read_st_coco(write(document))
    document["annotations"][0]["visibility"] = float("nan")
    path = write(document)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert_same(read_st_coco(path), expected)


def faults_of(path: Path) -> list[str]:
    """Lines of the error, without the first, which counts."""
    with pytest.raises(DataError) as caught:
        read_st_coco(path)
    return str(caught.value).splitlines()[1:]


DELETED = object()
AREA, FINITE = "width and height above 0", "finite numbers"


@pytest.mark.parametrize(
    ("table", "row", "field", "value", "expected", "found"),
    [
        ("images", 1, "id", DELETED, "`int`", "nothing"),
        ("images", 1, "id", "1", "`int`", "'1'"),
        ("images", 1, "id", 2**64, "`int` <= 9223372036854775807", str(2**64)),
        ("images", 1, "id", 10, "a unique value", "10, as in images[0]"),
        ("images", 1, "file_name", DELETED, "`str`", "nothing"),
        ("images", 1, "height", 0, "`int` >= 1", "0"),
        ("images", 1, "width", -160, "`int` >= 1", "-160"),
        ("images", 1, "width", 160.5, "`int`", "160.5"),
        ("images", 1, "video", DELETED, "`str` (or `video_id`)", "nothing"),
        ("images", 1, "video", 3, "`str | null`", "3"),
        ("images", 1, "frame_number", DELETED, "`int` (or `frame_id`)", "nothing"),
        ("images", 1, "frame_number", 0, "a unique value", "0 of video 'b', as in images[0]"),
        ("images", 1, "is_annotated", 2, "`int` <= 1", "2"),
        ("annotations", 2, "id", DELETED, "`int`", "nothing"),
        ("annotations", 2, "id", 1, "a unique value", "1, as in annotations[1]"),
        ("annotations", 2, "image_id", DELETED, "`int`", "nothing"),
        ("annotations", 2, "image_id", 99, "an id that is in `images`", "99"),
        ("annotations", 2, "category_id", 0, "an id that is in `categories`", "0"),
        ("annotations", 2, "category_id", 8, "an id that is in `categories`", "8"),
        ("annotations", 2, "bbox", DELETED, "`array`", "nothing"),
        ("annotations", 2, "bbox", [1, 2, 3], "`array` of length 4", "[1, 2, 3]"),
        ("annotations", 2, "bbox", [1, 2, "3", 4], "`float`", "[1, 2, '3', 4]"),
        ("annotations", 2, "bbox", [1, 2, 0, 4], AREA, "[1.0, 2.0, 0.0, 4.0]"),
        ("annotations", 2, "bbox", [1, 2, 3, -4], AREA, "[1.0, 2.0, 3.0, -4.0]"),
        ("annotations", 2, "bbox", [1, 2, 3, float("nan")], FINITE, "[1.0, 2.0, 3.0, nan]"),
        ("annotations", 2, "bbox", [float("inf"), 2, 3, 4], FINITE, "[inf, 2.0, 3.0, 4.0]"),
        ("annotations", 2, "bbox", [1, 2, 1e39, 4], FINITE, "[1.0, 2.0, 1e+39, 4.0]"),
        ("annotations", 2, "area", -1, "`float` >= 0.0", "-1"),
        ("annotations", 2, "area", float("nan"), "`float` >= 0.0", "nan"),
        ("annotations", 2, "iscrowd", "0", "`bool | int`", "'0'"),
        ("annotations", 2, "id_track", 1.5, "`int | str | null`", "1.5"),
        ("categories", 1, "id", 7, "a unique value", "7, as in categories[0]"),
        ("categories", 1, "name", "dog", "a unique value", "'dog', as in categories[0]"),
        ("categories", 1, "name", None, "`str`", "None"),
        ("videos", 1, "attributes", "night", "`array | null`", "'night'"),
        ("videos", 1, "attributes", {"light": "night"}, "`array | null`", "{'light': 'night'}"),
        ("videos", 1, "attributes", ["night", 3], "`str`", "['night', 3]"),
        ("videos", 1, "attributes", [""], "`str` of length >= 1", "['']"),
    ],
)  # fmt: skip
def test_fault_of_a_field(
    document: dict[str, Any],
    write: Any,
    table: str,
    row: int,
    field: str,
    value: object,
    expected: str,
    found: str,
) -> None:
    document["videos"] = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    if value is DELETED:
        del document[table][row][field]
    else:
        document[table][row][field] = value
    faults = [line for line in faults_of(write(document)) if f"{table}[{row}]" in line]
    assert faults[0] == f"    {table}[{row}].{field}: found {found}"
    assert f"  {table}.{field}: expected {expected} (1 fault)" in faults_of(write(document))


@pytest.mark.parametrize(
    "file_name",
    [
        "../a.jpg", "b/../../a.jpg", "b/..", "b\\..\\a.jpg", "/a.jpg", "\\a.jpg", "C:\\a.jpg",
        "c:a.jpg", "s3://bucket/a.jpg", "",
    ],
)  # fmt: skip
def test_file_name_that_leaves_the_image_root(
    document: dict[str, Any], write: Any, file_name: str
) -> None:
    document["images"][2]["file_name"] = file_name
    separators = ", with `/` between folders instead of the Windows separator `\\`"
    expected = "a path that stays below the image root"
    expected += separators if "\\" in file_name else ""
    assert faults_of(write(document)) == [
        f"  images.file_name: expected {expected} (1 fault)",
        f"    images[2].file_name: found {file_name!r}",
    ]


@pytest.mark.parametrize("file_name", ["a..b/c.jpg", "..a/b.jpg", "b/.../c.jpg", ".b/c.jpg"])
def test_dots_within_a_file_name(document: dict[str, Any], write: Any, file_name: str) -> None:
    document["images"][2]["file_name"] = file_name
    assert read_st_coco(write(document)).file_name(2) == file_name


def test_unknown_video(document: dict[str, Any], write: Any) -> None:
    del document["images"][2]["video"]
    document["images"][2]["video_id"] = 4
    document["videos"] = [{"id": 3, "name": "x"}, {"id": 3, "name": "x"}]
    assert faults_of(write(document)) == [
        "  videos.id: expected a unique value (1 fault)",
        "    videos[1].id: found 3, as in videos[0]",
        "  videos.name: expected a unique value (1 fault)",
        "    videos[1].name: found 'x', as in videos[0]",
        "  images.video_id: expected an id that is in `videos` (1 fault)",
        "    images[2].video_id: found 4",
    ]


def test_all_faults_at_once_and_the_first_ten_of_a_kind(
    document: dict[str, Any], write: Any
) -> None:
    document["annotations"] += [annotation(100 + i, 10, bbox=[0, 0, i, 0]) for i in range(12)]
    document["annotations"][0]["bbox"][1] = float("nan")
    document["annotations"][1] |= {"category_id": "x", "image_id": None}
    document["annotations"][3]["image_id"] = 77
    document["images"][0]["height"] = "120"  # its annotations are not of an unknown image
    path = write(document)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: 17 faults in this ST-COCO file"):
        read_st_coco(path)
    assert faults_of(path) == [
        "  images.height: expected `int` (1 fault)",
        "    images[0].height: found '120'",
        "  annotations.image_id: expected `int` (1 fault)",
        "    annotations[1].image_id: found None",
        "  annotations.category_id: expected `int` (1 fault)",
        "    annotations[1].category_id: found 'x'",
        "  annotations.bbox: expected finite numbers (1 fault)",
        "    annotations[0].bbox: found [10.0, nan, 30.5, 40.0]",
        "  annotations.bbox: expected width and height above 0 (12 faults; the first 10 are shown)",
        *(f"    annotations[{4 + i}].bbox: found [0.0, 0.0, {i}.0, 0.0]" for i in range(10)),
        "  annotations.image_id: expected an id that is in `images` (1 fault)",
        "    annotations[3].image_id: found 77",
    ]


def test_empty_data_set(document: dict[str, Any], write: Any) -> None:
    empty: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    assert faults_of(write(empty)) == [
        "  categories: expected 1 to 32767 entries (1 fault)",
        "    categories: found 0",
        "  images: expected at least 1 entry (1 fault)",
        "    images: found 0",
    ]
    assert "    annotations[0].image_id: found 10" in faults_of(write(document | {"images": []}))


def test_tables_missing_or_of_another_type(document: dict[str, Any], write: Any) -> None:
    del document["categories"]
    assert faults_of(write(document | {"images": {"0": {}}})) == [
        "  images: expected `array` (1 fault)",
        "    images: found {'0': {}}",
        "  categories: expected `array` (1 fault)",
        "    categories: found nothing",
    ]
    assert faults_of(write([1])) == [
        "  the file: expected `object` with images, annotations, categories (1 fault)",
        "    the file: found [1]",
    ]


def test_entries_of_another_type(document: dict[str, Any], write: Any) -> None:
    document["annotations"][1] = [1, 2]
    assert faults_of(write(document)) == [
        "  annotations: expected `object` (1 fault)",
        "    annotations[1]: found [1, 2]",
    ]


def test_long_values_are_shortened(document: dict[str, Any], write: Any) -> None:
    document["images"][0]["height"] = "x" * 1000
    assert faults_of(write(document))[1] == f"    images[0].height: found '{'x' * 96}..."


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ('{"images": [}', "line 1 column 13 (char 12)"),
        ('{\n"images": [{"id": 1', "line 2 column 20 (char 21)"),
        ("", "line 1 column 1 (char 0)"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_json(write: Any, text: str, position: str) -> None:
    path = write(text)
    with pytest.raises(DataError, match=re.escape(position)) as caught:
        read_st_coco(path)
    assert str(caught.value).startswith(f"{path} is not valid JSON: ")


def test_text_that_is_not_unicode(document: dict[str, Any], write: Any) -> None:
    document["images"][0]["file_name"] = "a\ud800.jpg"
    with pytest.raises(DataError, match=r"not valid JSON: .*surrogate pair, \\ud800"):
        read_st_coco(write(document))
    path = write("")
    path.write_bytes(b'{"images": "\xff"}')
    with pytest.raises(DataError, match="not valid JSON: not UTF-8 at byte 12"):
        read_st_coco(path)


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "absent.json"
    expected = f"Looked for an ST-COCO file (.json or .json.gz) at {path}, found none; its folder"
    with pytest.raises(DataError, match=re.escape(f"{expected} exists.")):
        read_st_coco(path)
    with pytest.raises(DataError, match=r"its folder does not exist either\."):
        read_st_coco(tmp_path / "folder" / "absent.json")
    with pytest.raises(DataError, match=r"Cannot read .*directory"):
        read_st_coco(tmp_path)


@pytest.mark.parametrize("crowded", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_random_files_against_plain_json(write: Any, seed: int, crowded: bool) -> None:
    document = random_document(seed, crowded)
    index = read_st_coco(write(document))
    annotations = copy.deepcopy(document["annotations"])
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert index.num_frames == len(document["images"])
    assert index.num_boxes == len(annotations)
    for frame, entry in enumerate(document["images"]):  # these files are in order
        assert index.file_name(frame) == entry["file_name"]
        assert index.video_name(index.video_of(frame)) == entry["video"]
        assert index.frame_numbers[frame] == entry["frame_number"]
        assert tuple(index.sizes[frame]) == (entry["height"], entry["width"])
        target = index.target(frame)
        expected = [a for a in annotations if a["image_id"] == entry["id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in expected)]
        assert torch.equal(target["boxes"], torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        assert [index.class_names[label] for label in target["labels"]] == [
            names[a["category_id"]] for a in expected
        ]
        assert target["iscrowd"].tolist() == [bool(a["ignore"] or a["iscrowd"]) for a in expected]
    tracks = {
        (index.video_of(frame), int(track))
        for frame in range(index.num_frames)
        for track in index.target(frame)["track_ids"]
    }
    video_of_image = {entry["id"]: entry["video"] for entry in document["images"]}
    assert len(tracks) == len({(video_of_image[a["image_id"]], a["id_track"]) for a in annotations})
