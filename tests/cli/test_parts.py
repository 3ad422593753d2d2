from __future__ import annotations

import json

import pytest

from vodet.cli import data
from vodet.data.annotations.st_coco import read_st_coco


@pytest.fixture
def source(tmp_path):
    """Ten videos of one frame with a car; one of them has a dog as well."""
    images = [
        {
            "id": n,
            "file_name": f"v{n}/0.jpg",
            "video": f"v{n}",
            "frame_number": 0,
            "height": 48,
            "width": 64,
        }
        for n in range(10)
    ]
    boxes = [{"image_id": n, "category_id": 1, "bbox": [1, 2, 3, 4]} for n in range(10)]
    boxes.append({"image_id": 4, "category_id": 2, "bbox": [1, 2, 3, 4]})
    annotations = [box | {"id": n} for n, box in enumerate(boxes, start=1)]
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}]
    path = tmp_path / "all.json"
    tables = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(tables))
    return path


def run(*arguments) -> int:
    return data.main([str(argument) for argument in arguments])


def test_split_and_merge(source, tmp_path, capsys):
    assert run("split", source, "--val", 0.3) == 0

    parts = [tmp_path / "all_train.json", tmp_path / "all_val.json"]
    assert [read_st_coco(part).num_videos for part in parts] == [7, 3]
    out = capsys.readouterr().out
    assert "wanted 0.3" in out
    assert "no boxes of dog in val" in out
    assert run("split", source, "--val", 0.3) == 1
    assert "all_train.json exists already" in capsys.readouterr().err
    assert run("merge", tmp_path / "merged.json", *parts) == 0
    assert read_st_coco(tmp_path / "merged.json").num_boxes == 11
    assert run("merge", parts[0], *parts, "--overwrite") == 1
    assert "DST: expected a file other than the input" in capsys.readouterr().err


def test_the_output_folder_and_an_invalid_share(source, tmp_path, capsys):
    assert run("split", source, "--val", 0.3, "--output", tmp_path / "new", "--seed", 5) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "all_train.json",
        "all_val.json",
    ]
    assert run("split", source, "--val", 30) == 1
    assert "found 30" in capsys.readouterr().err
    assert not (tmp_path / "all_train.json").exists()
