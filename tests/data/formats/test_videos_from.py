from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from vodet.data.formats.videos_from import Place, group_images
from vodet.errors import ConfigError, DataError

SOURCE = Path("annotations.json")
FRAMES = [f"clip{video}/{frame:06d}.jpg" for video in "AB" for frame in range(0, 20, 5)]


def videos(names, videos_from, fields=None):
    """What the images were grouped into, with names in place of positions."""
    groups = group_images(SOURCE, names, videos_from, fields)
    return {
        video: {number: names[position] for number, position in frames}
        for video, frames in groups.items()
    }


def test_pictures_are_videos_of_one_frame():
    assert videos(["b/2.jpg", "a/x.png"], None) == {"b/2": {0: "b/2.jpg"}, "a/x": {0: "a/x.png"}}
    assert len(videos(FRAMES, "none")) == len(FRAMES)


def test_folders_are_videos_and_the_last_number_is_the_frame():
    names = ["a/cam2_10.jpg", "a/cam2_9.jpg", r"b\frame_000007.PNG", "a/c/1_left.jpg"]

    assert videos(names, "folder") == {
        "a": {9: names[1], 10: names[0]},
        "b": {7: names[2]},
        "a/c": {1: names[3]},
    }
    assert videos(["frame_1.jpg"], "folder") == {"annotations": {1: "frame_1.jpg"}}
    hashed = "train/v_mp4-0012_jpg.rf.9f8e7d6c5b4a39281706.jpg"
    assert videos([hashed], "folder") == {"train": {12: hashed}}


def test_fields():
    assert videos(["x", "y"], "field", [Place("v", 3), Place("v", 1)]) == {"v": {1: "y", 3: "x"}}
    with pytest.raises(DataError, match=r"'y'.*frame_number"):
        videos(["x", "y"], "field", [Place("v", 3), None])


@pytest.mark.parametrize("pattern", [r"(?P<video>\w+)-f(?P<frame>\d+)\.jpg", r"(\w+)-f(\d+)\.jpg"])
def test_patterns(pattern):
    assert videos(["a-f12.jpg"], pattern) == {"a": {12: "a-f12.jpg"}}
    with pytest.raises(DataError, match=r"'b/a-f12\.jpg'"):  # the whole name must match
        videos(["b/a-f12.jpg"], pattern)


@pytest.mark.parametrize(
    "wrong", ["folders", "field", "(", r"(\d+)", r"(?P<video>a)(?P<number>b)", r"(a)(b)(c)"]
)
def test_what_is_neither_a_choice_nor_a_pattern_with_groups(wrong):
    with pytest.raises(ConfigError, match=r"none, folder, or") as caught:
        videos(["a/1.jpg"], wrong)
    assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize(
    ("names", "how", "found"),
    [
        (["a/1.jpg", "a/01.jpg"], "folder", r"number 1 in video 'a', found 'a/1.jpg' and 'a/01"),
        (["a/x.jpg"], "folder", r"'a/x\.jpg'.*no digit"),
        (["a/99999999999.jpg"], "folder", r"up to 2147483647, found 99999999999"),
        (["a_.jpg"], r"(\w)_(\d*)\.jpg", r"'a_\.jpg'.*frame ''"),
        (["_1.jpg"], r"(?P<video>\w)?_(?P<frame>\d)\.jpg", "'_1.jpg'.*video None"),
    ],
)
def test_faults_name_the_images(names, how, found):
    with pytest.raises(DataError, match=found) as caught:
        videos(names, how)
    assert str(SOURCE) in str(caught.value)


def test_a_fault_comes_with_an_option_that_fits():
    names = [f"train/clip{v}_{n:06d}_jpg.rf.{v * 20}.jpg" for v in "ab" for n in range(5)]

    with pytest.raises(DataError, match=r"found .*clipa_000000.* and .*clipb_000000") as caught:
        videos(names, "folder")
    proposed = re.search("--videos-from '(.*)'`", str(caught.value))[1]
    assert {name: len(frames) for name, frames in videos(names, proposed).items()} == {
        "train/clipa": 5,
        "train/clipb": 5,
    }


HASH = random.Random(0)
LIKE_FRAMES = {
    "folders": FRAMES,
    "prefixes": [name.replace("/", "_") for name in FRAMES],
    "without separator": [name.replace("/", "frame") for name in FRAMES],
    "one video": [f"frame_{number:06d}.PNG" for number in range(4)],
    "Roboflow": [
        f"{name.replace('/', '_').replace('.', '_')}.rf.{HASH.randbytes(16).hex()}.jpg"
        for name in FRAMES
    ],
    "Label Studio": [
        f"upload/4/{HASH.randbytes(3).hex()}ab-{name.replace('/', '_')}" for name in FRAMES
    ],
}


@pytest.mark.parametrize("kind", LIKE_FRAMES)
def test_frames_without_a_choice_are_refused_with_a_fitting_one(kind):
    names = LIKE_FRAMES[kind]
    with pytest.raises(ConfigError, match="--videos-from none") as caught:
        videos(names, None)

    assert repr(min(names, key=lambda name: name.split("-")[-1])) in str(caught.value)
    option = re.search("`--videos-from '(.*?)'`", str(caught.value))[1]
    found = videos(names, option)
    expected = {"clipA", "clipB"} if len(names) == 8 else {"annotations"}
    assert {re.sub("frame$", "", video) for video in found} == expected
    assert {len(frames) for frames in found.values()} == {4}


def test_fields_without_a_choice_are_refused():
    with pytest.raises(ConfigError, match=r"fields .*'x'.*--videos-from 'field'"):
        videos(["x"], None, [Place("v", 1)])


def test_several_images_of_a_frame_are_refused_without_a_proposal():
    names = [f"a_{n}_jpg.rf.{c * 20}.jpg" for n in range(5) for c in "xy"]  # two augmentations

    with pytest.raises(ConfigError, match=r"--videos-from REGEX`.*\(\?P<video>"):
        videos(names, None)


def test_names_of_coco_are_pictures():
    numbers = random.Random(0).sample(range(600_000), 5000)

    assert len(videos([f"{number:012d}.jpg" for number in numbers], None)) == 5000
