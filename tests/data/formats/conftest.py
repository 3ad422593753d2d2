"""Miniatures of the real layouts, and what was written in a form to compare by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from data.formats.random_native import Frames
from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.formats.writer import write_st_coco


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


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
            range(1, len(document["annotations"]) + 1)
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
def same_as_written(convert):
    """Compares what is converted with what a function of ``random_native`` has written."""

    def check(records, written: Frames, drop_ignored: bool = False) -> SimpleNamespace:
        found = convert(records, drop_ignored=drop_ignored)
        assert list(found.frames) == list(written)
        for key, rows in written.items():
            kept = [row for row in rows if not (drop_ignored and row[3])]
            boxes = found.frames[key]
            assert [(name, *rest) for name, _, *rest in boxes] == [
                (name, *rest) for name, _, *rest in kept
            ]
            for (_, box, *_), (_, expected, *_) in zip(boxes, kept, strict=True):
                assert box == pytest.approx(expected, abs=1e-5)
        return found

    return check
