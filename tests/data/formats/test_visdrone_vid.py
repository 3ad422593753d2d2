from __future__ import annotations

import pytest

from vodet.data.formats.visdrone_vid import read_visdrone_vid
from vodet.errors import DataError


@pytest.fixture
def visdrone(tmp_path, image, text):
    def write(*lines: str, name: str = "uav1_v"):
        root = tmp_path / "VisDrone2019-VID-train"
        for frame in (1, 2):
            image(root / f"sequences/{name}/{frame:07d}.jpg", 48, 64)
        text(root / f"annotations/{name}.txt", *lines)
        return root

    return write


def test_ignore_regions(visdrone, convert):
    # frame, target_id, left, top, width, height, score, category, truncation, occlusion
    root = visdrone(
        "1,0,10,20,5,8,1,4,0,0",
        "1,1,10,20,5,8,1,10,0,2",
        "2,0,1,2,3,4,0,1,0,0",
        "2,2,0,0,9,9,0,0,0,0",
        "2,3,0,0,9,9,1,11,0,0",
    )

    found = convert(read_visdrone_vid(root))

    assert found.frames["uav1_v", 1] == [
        ("car", (10, 20, 5, 8), "0", 0),
        ("motor", (10, 20, 5, 8), "1", 0),
    ]
    assert found.frames["uav1_v", 2][0] == ("pedestrian", (1, 2, 3, 4), "0", 1)
    assert [box[1:] for box in found.frames["uav1_v", 2][1:]] == [((0, 0, 9, 9), None, 1)] * 20
    assert [a["occluded"] for a in found.annotations[:2]] == ["0", "1"]
    assert found.images[0]["file_name"] == "sequences/uav1_v/0000001.jpg"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("1,0,10,20,5,8,1,12,0,0", "category: expected one of 0, .*found 12"),
        ("1,0,10,20,5,8,0.5,1,0,0", "score: expected an integer, found '0.5'"),
        ("1,0,10,20,5,8,1,1,0", "expected 10 values .*found 9"),
        ("3,0,10,20,5,8,1,1,0,0", "frame with an image, found frame 3"),
    ],
)
def test_malformed_lines_are_named(visdrone, line, found):
    root = visdrone("1,0,10,20,5,8,1,4,0,0", line)

    with pytest.raises(DataError, match=rf"uav1_v\.txt: line 2: .*{found}"):
        list(read_visdrone_vid(root).videos)


def test_chosen_sequences_and_missing_folders(visdrone, convert, tmp_path):
    visdrone(name="a")
    root = visdrone(name="b")

    found = convert(read_visdrone_vid(root, sequences={"b": None}))
    assert {video for video, _ in found.frames} == {"b"}
    with pytest.raises(DataError, match=r"1 of 1 sequences are not in .*: c; there are: a, b"):
        read_visdrone_vid(root, sequences={"c": None})
    with pytest.raises(DataError, match="annotations of VisDrone-VID"):
        read_visdrone_vid(tmp_path)
