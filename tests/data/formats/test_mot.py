from __future__ import annotations

import pytest

from data.formats import random_native
from vodet.data.formats.mot import read_mot
from vodet.errors import ConfigError, DataError, FrameError

SEQINFO = ("[Sequence]", "name=A", "imDir=img1", "seqLength=3", "imWidth=64", "imHeight=48")


@pytest.fixture
def sequence(tmp_path, image, text):
    def write(*lines: str, name: str = "MOT17-02-FRCNN", frames: int = 3, size=(48, 64)):
        folder = tmp_path / "mot" / "train" / name
        for frame in range(1, frames + 1):
            image(folder / "img1" / f"{frame:06d}.jpg", *size)
        text(folder / "seqinfo.ini", *SEQINFO)
        text(folder / "gt" / "gt.txt", *lines)
        return tmp_path / "mot"

    return write


def test_frames_from_1_with_pedestrians_and_ignore_regions(sequence, convert):
    source = sequence(
        "1,7,10,20,5,8,1,1,1.0",  # frame, id, left, top, width, height, conf, class, visibility
        "1,8,-4,40,10,20,1,1,0.3",  # leaves the image
        "3,9,1,2,3,4,0,1,1",  # not to be considered
        "3,10,1,2,3,4,0,8,1",  # distractor
        "3,11,1,2,3,4,0,3,1",  # car
        "3,12,70,2,3,4,1,1,0",
    )

    found = convert(read_mot(source, split="train"))

    assert found.frames == {
        ("MOT17-02-FRCNN", 1): [
            ("pedestrian", (10, 20, 5, 8), "7", 0),
            ("pedestrian", (0, 40, 6, 8), "8", 0),
        ],
        ("MOT17-02-FRCNN", 2): [],
        ("MOT17-02-FRCNN", 3): [
            ("pedestrian", (1, 2, 3, 4), "9", 1),
            ("pedestrian", (1, 2, 3, 4), "10", 1),
        ],
    }
    assert [a["occluded"] for a in found.annotations] == ["0", "1", "0", "0"]
    assert found.images[0]["file_name"] == "train/MOT17-02-FRCNN/img1/000001.jpg"
    assert found.summary.clipped == 1
    assert found.summary.skipped == {
        "objects of other classes (vehicles, occluders)": 1,
        "boxes entirely outside the image": 1,
    }


def test_repetitions_for_each_detector_are_taken_once(sequence, convert):
    for detector in ("DPM", "FRCNN", "SDP"):
        source = sequence(name=f"MOT17-02-{detector}")

    found = convert(read_mot(source))

    assert {video for video, _ in found.frames} == {"MOT17-02-DPM"}
    assert list(found.summary.skipped.values()) == [2]
    chosen = convert(read_mot(source, sequences={"MOT17-02-SDP": range(2, 4)}))
    assert list(chosen.frames) == [("MOT17-02-SDP", 2), ("MOT17-02-SDP", 3)]


@pytest.mark.parametrize(("length", "first"), [(3, 2), (4, 3), (5, 3)])
def test_halves_share_no_frame(sequence, convert, text, length, first):
    source = sequence(frames=length)
    lines = [line.replace("seqLength=3", f"seqLength={length}") for line in SEQINFO]
    text(source / "train/MOT17-02-FRCNN/seqinfo.ini", *lines)

    halves = [convert(read_mot(source, split=f"half-{name}")).frames for name in ("train", "val")]

    assert [number for _, number in halves[0]] == list(range(1, first + 1))
    assert [number for _, number in halves[1]] == list(range(first + 1, length + 1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,7,10,20,5,8,1,1", r"line 2: expected 9 values \(frame, id, .*found 8"),
        ("1,7,x,20,5,8,1,1,1", "line 2: left: expected a finite number, found 'x'"),
        ("1,7,nan,20,5,8,1,1,1", "line 2: left: expected a finite number, found 'nan'"),
        ("1,7,1,20,5,8,1,99,1", "line 2: class: expected one of 1, 2, .*found 99"),
        ("4,7,1,20,5,8,1,1,1", "line 2: expected a frame with an image, found frame 4"),
    ],
)
def test_malformed_lines_are_named(sequence, convert, line, message):
    source = sequence("1,7,10,20,5,8,1,1,1", line)

    with pytest.raises(DataError, match=message) as caught:
        convert(read_mot(source))
    assert "gt.txt" in str(caught.value)


def test_what_is_missing_or_of_another_size(sequence, convert, tmp_path):
    source = sequence(size=(40, 64))

    with pytest.raises(FrameError, match=r"expected 48 x 64 .* found 40 x 64"):
        convert(read_mot(source))
    with pytest.raises(
        ConfigError, match="--split: expected one of train, half-train, half-val; found val"
    ):
        read_mot(source, split="val")
    with pytest.raises(DataError, match=r"1 of 1 sequences are not in .*: B; there are: MOT17-02"):
        read_mot(source, sequences={"B": None})
    with pytest.raises(DataError, match="none is not a folder"):
        read_mot(tmp_path / "none", split="train")
    source = sequence()
    (source / "train/MOT17-02-FRCNN/img1").rename(tmp_path / "img1")
    with pytest.raises(DataError, match=r"Expected a folder of images at .*img1, found none"):
        convert(read_mot(source))
    (tmp_path / "img1").rename(source / "train/MOT17-02-FRCNN/img1")
    (source / "train/MOT17-02-FRCNN/gt/gt.txt").unlink()
    with pytest.raises(DataError, match="There is no text file"):
        convert(read_mot(source))


@pytest.mark.parametrize(
    "lines", [["imWidth=64", "imHeight=48"], ["[Sequence]", "imWidth=64"], [*SEQINFO, "imWidth=x"]]
)
def test_a_malformed_seqinfo_is_named(sequence, convert, text, lines):
    source = sequence()
    text(source / "train/MOT17-02-FRCNN/seqinfo.ini", *lines)

    with pytest.raises(DataError, match=r"seqinfo\.ini: expected \[Sequence\] with imWidth"):
        convert(read_mot(source))


@pytest.mark.parametrize("drop_ignored", [True, False])
def test_random_objects_of_all_classes(rng, same_as_written, tmp_path, drop_ignored):
    written = random_native.mot(tmp_path / "mot17", rng)
    found = same_as_written(read_mot(tmp_path / "mot17"), written, drop_ignored)
    assert found.index.sizes.tolist() == [[1080, 1920]] * 9
    assert found.summary.clipped > 10


@pytest.fixture
def cvat(tmp_path, image, text):
    """Writes a task as CVAT exports it, without a seqinfo.ini."""

    def write(name="task1", labels=("car", "bus")):
        folder = tmp_path / "cvat" / name
        for frame in range(3):
            image(folder / "img1" / f"frame_{frame:06d}.jpg", 48, 64)
        text(folder / "gt" / "gt.txt", "1,1,10.5,20,30,8,1,2,1.0", "3,1,11.5,20,30,8,1,1,1.0")
        if labels:
            text(folder / "gt" / "labels.txt", *labels)
        return folder

    return write


@pytest.mark.parametrize("with_info", [True, False])
def test_a_task_of_cvat(cvat, convert, text, with_info):
    folder = cvat()
    with pytest.raises(DataError, match=r"one sequence: .*task1.*parent folder"):
        read_mot(folder)
    if with_info:
        text(folder / "seqinfo.ini", *SEQINFO)

    found = convert(read_mot(folder.parent))

    assert found.frames == {
        ("task1", 1): [("bus", (10.5, 20, 30, 8), "1", 0)],
        ("task1", 2): [],
        ("task1", 3): [("car", (11.5, 20, 30, 8), "1", 0)],
    }
    assert found.images[0]["file_name"] == "task1/img1/frame_000000.jpg"
    half = convert(read_mot(folder.parent, sequences={"task1": range(3, 4)}))
    assert [image["file_name"] for image in half.images] == ["task1/img1/frame_000002.jpg"]


def test_halves_without_seqinfo(sequence, convert):
    source = sequence(frames=5)
    (source / "train/MOT17-02-FRCNN/seqinfo.ini").unlink()

    halves = [convert(read_mot(source, split=f"half-{name}")).frames for name in ("train", "val")]

    assert [[number for _, number in half] for half in halves] == [[1, 2, 3], [4, 5]]


@pytest.mark.parametrize("name", ["{:d}.png", "cam2-{:04d}.JPEG", "a 7 b_{:02d}.jpg"])
def test_any_name_that_ends_in_a_number(cvat, convert, name):
    folder = cvat()
    for number, path in enumerate(sorted((folder / "img1").iterdir()), start=1):
        path.rename(path.with_name(name.format(number)))

    found = convert(read_mot(folder.parent))

    assert found.images[2]["file_name"] == f"task1/img1/{name.format(3)}"
    assert found.index.sizes.tolist() == [[48, 64]] * 3


def test_classes_of_cvat_are_the_same_in_all_tasks(cvat, text):
    root = cvat().parent
    for labels in (("car",), ()):
        cvat("task2", labels)
        with pytest.raises(DataError, match=r"the same gt/labels\.txt in every sequence"):
            read_mot(root)
        (root / "task2/gt/labels.txt").unlink(missing_ok=True)


def test_two_images_with_one_number_are_named(sequence, convert, image):
    source = sequence()
    image(source / "train/MOT17-02-FRCNN/img1/frame_000002.jpg", 48, 64)

    with pytest.raises(DataError, match=r"found 000002\.jpg and frame_000002\.jpg"):
        convert(read_mot(source))
