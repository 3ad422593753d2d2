"""Miniatures of the real layouts, and what was written in a form to compare by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.formats.writer import write_st_coco


@pytest.fixture(scope="session")
def native(shared) -> Path:
    return shared / "sample" / "native"


@pytest.fixture
def image():
    """Writes a black image of a size and returns its path."""

    def write(path: Path, height: int, width: int) -> Path:
        return _write_picture(path, np.zeros((height, width), np.uint8))

    return write


def _write_picture(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, values)[1].tobytes())
    return path


@pytest.fixture
def picture():
    """Writes an array as an image and returns its path."""
    return _write_picture


@pytest.fixture
def text():
    """Writes the lines of a text file and returns its path."""

    def write(path: Path, *lines: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


@pytest.fixture
def convert(tmp_path):
    """Writes records; the file must be one that vodet reads. Frames are in ``frames``, as their
    video and number, with their annotations as tuples in the order of the file."""

    def run(records, **options):
        target = tmp_path / "converted.json"
        summary = write_st_coco(records, target, overwrite=True, **options)
        document = json.loads(target.read_text())
        names = {category["id"]: category["name"] for category in document["categories"]}
        frames = {
            image["id"]: ((image["video"], image["frame_number"]), [])
            for image in document["images"]
        }
        for a in document["annotations"]:
            frames[a["image_id"]][1].append(
                (names[a["category_id"]], tuple(a["bbox"]), a.get("id_track"), a["ignore"])
            )
            assert a["ignore"] == a["iscrowd"]
        assert [image["id"] for image in document["images"]] == list(range(summary.frames))
        assert [a["id"] for a in document["annotations"]] == list(
            range(len(document["annotations"]))
        )
        return SimpleNamespace(
            frames=dict(frames.values()),
            images=document["images"],
            annotations=document["annotations"],
            document=document,
            summary=summary,
            index=read_st_coco(target),
            path=target,
        )

    return run


@pytest.fixture
def same_as_sample(convert, shared):
    """Compares what is converted with a file of the sample, in all but the image root."""

    def check(records, name: str, **options) -> None:
        found = convert(records, **options).index
        expected = read_st_coco(shared / "sample" / "stcoco" / name)
        for column in ("boxes", "labels", "track_ids", "areas", "iscrowd", "box_starts"):
            np.testing.assert_array_equal(getattr(found, column), getattr(expected, column))
        for column in ("frame_numbers", "sizes", "video_starts"):
            np.testing.assert_array_equal(getattr(found, column), getattr(expected, column))
        assert found.class_names == expected.class_names
        for frame in range(found.num_frames):
            assert expected.file_name(frame).endswith(f"/{found.file_name(frame)}")

    return check
