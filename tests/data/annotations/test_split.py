from __future__ import annotations

import json

import numpy as np
import pytest

from vodet.data.annotations.merge import merge
from vodet.data.annotations.rows import read_rows
from vodet.data.annotations.split import choose_videos, write_part
from vodet.data.annotations.st_coco import read_st_coco
from vodet.errors import ConfigError, DataError


def document(videos: int, *, prefix: str = "v", first_category: int = 1, names=("car", "bus")):
    """Videos of two frames; every fourth video has a bus, the others have a car."""
    images, annotations = [], []
    for video in range(videos):
        for frame in range(2):
            number = len(images)
            images.append(
                {
                    "id": 10 + number,
                    "file_name": f"{prefix}{video}/{frame}.jpg",
                    "video": f"{prefix}{video}",
                    "frame_number": frame,
                    "height": 48,
                    "width": 64,
                    "weather": "rain",
                }
            )
            annotations.append(
                {
                    "id": number,
                    "image_id": 10 + number,
                    "category_id": first_category + (video % 4 == 0),
                    "bbox": [1.25, 2, 3, 4],
                    "id_track": "a",
                    "segmentation": [[1, 2, 4, 2, 4, 6]],
                }
            )
    categories = [{"id": first_category + n, "name": name} for n, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def write(tmp_path):
    def write(content, name="all.json"):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_each_class_has_its_share(write, share):
    index = read_st_coco(write(document(80)))

    is_val = choose_videos(index, share, seed=3)

    has_bus = np.arange(80) % 4 == 0
    assert is_val[has_bus].mean() == pytest.approx(share, abs=0.05)
    assert is_val[~has_bus].mean() == pytest.approx(share, abs=0.02)
    np.testing.assert_array_equal(is_val, choose_videos(index, share, seed=3))
    assert (is_val != choose_videos(index, share, seed=4)).any()


@pytest.mark.parametrize("videos", [2, 3])
def test_both_parts_have_a_video(write, videos):
    index = read_st_coco(write(document(videos)))

    assert 0 < choose_videos(index, 0.1).sum() < videos


def test_what_cannot_be_split(write):
    with pytest.raises(ConfigError, match=r"all\.json has 1 video"):
        choose_videos(read_st_coco(write(document(1))), 0.2)
    index = read_st_coco(write(document(3)))
    for share in (0.0, 1.0, 20.0, float("nan")):
        with pytest.raises(ConfigError, match=rf"--val: .*found {share}"):
            choose_videos(index, share)


def test_entries_of_a_part_stay_as_they_are(write, tmp_path):
    content = document(4)
    content |= {"info": {"year": 2020}, "videos": [{"id": n, "name": f"v{n}"} for n in range(4)]}
    rows = read_rows(write(content))

    write_part(rows, {"v1", "v2"}, tmp_path / "part.json")

    part = json.loads((tmp_path / "part.json").read_text())
    assert part["images"] == content["images"][2:6]
    assert part["annotations"] == content["annotations"][2:6]
    assert part["categories"] == content["categories"]
    assert part["info"] == {"year": 2020}
    assert [video["name"] for video in part["videos"]] == ["v1", "v2"]


def test_numbers_written_as_3_0(write, tmp_path):
    text = json.dumps(document(2)).replace('"image_id": 11', '"image_id": 11.0')
    path = tmp_path / "a.json"
    path.write_text(text)

    write_part(read_rows(path), {"v0"}, tmp_path / "part.json")

    assert read_st_coco(tmp_path / "part.json").num_boxes == 2


def test_merged_files_keep_what_they_have(write, tmp_path):
    one = document(2)
    other = document(1, prefix="w", first_category=2, names=("bus", "dog"))
    cocovid = document(1, prefix="x")
    for image in cocovid["images"]:
        del image["video"]
        image |= {"video_id": 9, "frame_id": image.pop("frame_number")}
    for annotation in cocovid["annotations"]:
        annotation["video_id"] = 9
    cocovid["videos"] = [{"id": 9, "name": "x", "attributes": ["night"]}]
    files = [write(one, "1.json"), write(other, "2.json"), write(cocovid, "3.json")]

    lacking = merge([read_rows(file) for file in files], tmp_path / "merged.json")

    merged = json.loads((tmp_path / "merged.json").read_text())
    assert [(c["name"], c["id"]) for c in merged["categories"]] == [
        ("car", 1),
        ("bus", 2),
        ("dog", 3),
    ]
    assert [image["id"] for image in merged["images"]] == list(range(8))
    assert [a["id"] for a in merged["annotations"]] == list(range(1, 9))
    assert merged["images"][0] == one["images"][0] | {"id": 0}
    kept = {"id": 5, "image_id": 4, "category_id": 3}  # a dog
    assert merged["annotations"][4] == other["annotations"][0] | kept
    index = read_st_coco(tmp_path / "merged.json")
    assert [index.video_name(video) for video in range(4)] == ["v0", "v1", "w0", "x"]
    assert index.attribute_names == ("night",)
    assert [text.partition(" has ")[2] for text in lacking] == [
        "no class dog",
        "no class car",
        "no class dog",
    ]


def test_a_video_in_two_files_is_refused(write, tmp_path):
    files = [write(document(2), "1.json"), write(document(1), "2.json")]

    for paths in (files, files[:1] * 2):
        with pytest.raises(DataError, match=r"video in one file, found 'v0' in .*1\.json and"):
            merge([read_rows(path) for path in paths], tmp_path / "merged.json")
    assert not (tmp_path / "merged.json").exists()
