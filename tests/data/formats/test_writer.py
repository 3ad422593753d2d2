from __future__ import annotations

import pytest

from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.formats.records import Box, Frame, Records, Video, categories_of
from vodet.data.formats.writer import write_st_coco
from vodet.errors import ConfigError, DataError


def records(*boxes: Box, videos=None) -> Records:
    frame = Frame("a/0.jpg", 0, (48, 64), boxes)
    return Records(categories_of(["car", "dog"]), iter(videos or [Video("a", [frame])]))


def test_writes_boxes_classes_tracks_and_flags(convert):
    found = convert(records(Box(1, (1, 2, 11, 7.5), "t", is_occluded=True), Box(0, (0, 0, 64, 48))))

    assert found.annotations == [
        {
            "id": 1,
            "image_id": 0,
            "category_id": 1,
            "bbox": [1, 2, 10, 5.5],
            "area": 55.0,
            "iscrowd": 0,
            "ignore": 0,
            "id_track": "t",
            "occluded": "1",
        },
        {
            "id": 2,
            "image_id": 0,
            "category_id": 0,
            "bbox": [0, 0, 64, 48],
            "area": 3072,
            "iscrowd": 0,
            "ignore": 0,
        },
    ]
    assert found.images == [
        {
            "id": 0,
            "file_name": "a/0.jpg",
            "video": "a",
            "frame_number": 0,
            "height": 48,
            "width": 64,
        }
    ]


def test_clips_what_sticks_out_and_counts_it(convert):
    found = convert(records(Box(0, (-5, 40, 10, 60), area=17), Box(0, (60, 0, 64, 4), area=9)))

    assert [a["bbox"] for a in found.annotations] == [[0, 40, 10, 8], [60, 0, 4, 4]]
    assert [a["area"] for a in found.annotations] == [80, 9]
    assert found.summary.clipped == 1


@pytest.mark.parametrize(
    ("xyxy", "reason"),
    [
        ((64, 0, 70, 9), "boxes entirely outside the image"),
        ((3, -9, 9, 0), "boxes entirely outside the image"),
        ((5, 5, 5, 9), "boxes without area"),
        ((5, 5, 5.00001, 9), "boxes without area"),  # in float32, as which it is read
        ((63.99999, 0, 70, 9), "boxes entirely outside the image"),
        ((5, 9, 7, 4), "boxes without area"),
    ],
)
def test_boxes_that_are_none_are_left_out_and_counted(convert, xyxy, reason):
    found = convert(records(Box(0, xyxy)))

    assert found.annotations == []
    assert found.summary.skipped == {reason: 1}


def test_ignored_boxes_are_counted_apart_and_can_be_dropped(convert):
    boxes = (Box(0, (0, 0, 9, 9)), Box(1, (0, 0, 9, 9), is_ignored=True))

    kept, dropped = convert(records(*boxes)), convert(records(*boxes), drop_ignored=True)

    assert [a["ignore"] for a in kept.annotations] == [0, 1]
    assert (kept.summary.boxes, kept.summary.ignored) == ({0: 1}, {1: 1})
    assert [a["category_id"] for a in dropped.annotations] == [0]
    assert dropped.summary.skipped == {"ignore regions (--drop-ignored)": 1}


def test_support_frames_are_marked(convert):
    frames = [Frame(f"{n}.jpg", n, (4, 4), [], is_annotated=n == 1) for n in range(3)]

    found = convert(records(videos=[Video("v", frames)]))

    assert found.index.is_annotated.tolist() == [False, True, False]
    assert "is_annotated" not in found.images[1]
    assert found.summary.support_frames == 2


def test_attributes_of_videos(convert):
    video = Video("v", [Frame("0.jpg", 0, (4, 4), [])], ["night", "fog"])

    assert convert(records(videos=[video])).document["videos"] == [
        {"id": 0, "name": "v", "attributes": ["night", "fog"]}
    ]


def test_an_existing_file_is_replaced_only_if_asked(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")

    with pytest.raises(ConfigError, match=r"a\.json exists already.*--overwrite"):
        write_st_coco(records(), target)
    assert target.read_text() == "old"
    write_st_coco(records(), target, overwrite=True)
    assert read_st_coco(target).num_frames == 1


def test_an_interrupted_conversion_leaves_what_was_there(tmp_path):
    def videos():
        yield Video("a", [Frame("0.jpg", 0, (4, 4), [])])
        raise KeyboardInterrupt

    target = tmp_path / "a.json"
    target.write_text("old")

    with pytest.raises(KeyboardInterrupt):
        write_st_coco(records(videos=videos()), target, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert target.read_text() == "old"


def test_a_target_of_another_kind_and_an_empty_set_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"ends in \.json"):
        write_st_coco(records(), tmp_path / "folder")
    with pytest.raises(DataError, match=r"a\.json: expected a class"):
        write_st_coco(Records([], iter([])), tmp_path / "a.json")
    with pytest.raises(DataError, match="found no frame"):
        write_st_coco(records(videos=[Video("a", [])]), tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
