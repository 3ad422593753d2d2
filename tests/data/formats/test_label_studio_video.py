from __future__ import annotations

import json

import pytest

from vodet.data.formats.label_studio_video import read_label_studio_video
from vodet.errors import DataError


def key(frame: int, x: float, *, enabled: bool = True, **other: float):
    return {"frame": frame, "x": x, "y": 50, "width": 25, "height": 50, "enabled": enabled} | other


def result(*sequence, label: str = "car", count: int = 6, name: str = "a", **other):
    value = {"framesCount": count, "duration": 0.2, "sequence": sequence, "labels": [label]}
    return {"id": name, "type": "videorectangle", "from_name": "box", "value": value} | other


def task(*results, number: int = 1, video: str = "/data/upload/2/0a1b2c3d-street.mp4", **other):
    annotation = {"id": 3, "was_cancelled": False, "result": list(results)}
    return {"id": number, "data": {"video": video}, "annotations": [annotation]} | other


@pytest.fixture
def export(tmp_path, image):
    """Writes an export, and the images of a video, numbered from 1."""

    def write(*tasks, folder: str = "street", frames=range(1, 7)):
        for frame in frames:
            image(tmp_path / "ls" / folder / f"{frame:06d}.jpg", 48, 64)
        path = tmp_path / "ls/export.json"
        path.write_text(json.dumps(tasks))
        return path

    return write


def test_interpolation_in_percent_and_enabled(export, convert):
    path = export(
        task(
            result(key(2, 0), key(4, 50, enabled=False), key(6, 0)),
            result(key(1, 0, rotation=90, y=0), key(2, 0, enabled=False), name="b", label="bus"),
            {"id": "c", "type": "timelinelabels", "value": {"ranges": []}},
        )
    )

    found = convert(read_label_studio_video(path))

    boxes = {number: [box[:3] for box in row] for (_, number), row in found.frames.items()}
    assert boxes[2] == [("car", (0, 24, 16, 24), "a"), ("bus", (0, 24, 16, 24), "b")]
    assert boxes[3] == [("car", (16, 24, 16, 24), "a")]
    assert boxes[4] == [("car", (32, 24, 16, 24), "a")]
    assert boxes[5] == []
    assert boxes[6] == [("car", (0, 24, 16, 24), "a")]
    assert found.summary.skipped["boxes entirely outside the image"] == 1  # turned about its corner
    assert found.images[0]["file_name"] == "street/000001.jpg"


def test_an_object_stays_until_the_end_if_its_last_key_frame_is_enabled(export, convert):
    path = export(task(result(key(4, 25))), folder=".", frames=range(6))  # numbered from 0

    found = convert(read_label_studio_video(path))

    assert [number for (_, number), boxes in found.frames.items() if boxes] == [4, 5, 6]
    assert found.images[3]["file_name"] == "000003.jpg"


def test_names_of_videos(export, convert):
    export(folder="same 1")
    export(folder="same 2")
    path = export(
        task(result(key(1, 0)), number=1, video="https://host/x/same.mp4?token=1"),
        task(result(key(1, 0)), number=2, video="/data/local-files/?d=y%2Fsame.mp4"),
        task(number=3, annotations=[]),
        task(number=4, annotations=[{"was_cancelled": True, "result": []}]),
        folder="x",
    )

    found = convert(read_label_studio_video(path))

    assert {video for video, _ in found.frames} == {"same 1", "same 2"}
    assert found.summary.skipped["videos without an annotation"] == 2


TWO = [{"result": []}, {"result": []}]


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (task(result(key(7, 0))), "key frames 7 to 7, found 6 images"),
        (task(result(key(0, 0))), "key frames 0 to 0"),
        (task(result(key(1, 0), count=300)), r"video street: .*300 frames.*found 6 images"),
        (task(result(key(1, 0), key(1, 5))), r"result\[0\]\.value\.sequence: .*frame 1"),
        (task(result(key(1, float("inf")))), r"finite numbers in frame 1"),
        (task(result(key(1, 0), value={"sequence": []})), "missing required field `labels`"),
        (task(annotations=TWO), r"\[0\]\.annotations: expected one .*task 1, found 2"),
        ({"video": "a.mp4", "box": []}, "missing required field"),
    ],
)
def test_faults_are_named(export, wrong, found):
    path = export(wrong)

    with pytest.raises(DataError, match=found) as caught:
        list(read_label_studio_video(path).videos)
    assert "export.json" in str(caught.value)


def test_missing_images(export):
    path = export(task(result(key(1, 0)), video="other.mp4"), task(result(key(1, 0)), number=2))

    with pytest.raises(DataError, match=r"images of the video other in .*ls/other"):
        list(read_label_studio_video(path).videos)
