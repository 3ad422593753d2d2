from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np
import pytest

from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.generated.long_range import EMBLEMS, LongRangeConfig, draw_video
from vodet.data.generated.sets import ensure_generated, generate
from vodet.data.generated.synthetic import SyntheticConfig
from vodet.errors import ConfigError, DataError

TINY = LongRangeConfig(train_videos=3, val_videos=2, frames_per_video=7, clear_frames=3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("generated") / "tiny"
    generate(root, TINY)
    return root


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes_other_seed_other_pictures(tiny, tmp_path):
    generate(tmp_path / "again", TINY, workers=1)
    generate(tmp_path / "other", replace(TINY, seed=1))

    here, again, other = map(contents, (tiny, tmp_path / "again", tmp_path / "other"))
    pictures = [path for path in here if path.suffix == ".jpg"]
    assert here == again
    assert len(pictures) == (3 + 2) * 7
    assert len({here[path] for path in pictures} | {other[path] for path in pictures}) == 2 * 5 * 7


@pytest.mark.parametrize(("split", "videos"), [("train", 3), ("val", 2)])
def test_every_frame_is_annotated_and_the_first_ones_are_clear(tiny, split, videos):
    index = read_st_coco(tiny / f"{split}.json")
    images = json.loads((tiny / f"{split}.json").read_text())["images"]

    assert (index.num_videos, index.num_frames) == (videos, 7 * videos)
    assert index.class_names == EMBLEMS
    assert index.is_annotated.all()
    assert [image["is_clear"] for image in images] == ([True] * 3 + [False] * 4) * videos


def test_covered_frames_do_not_depend_on_the_classes():
    for number in range(4):
        video = draw_video(TINY, "train", number)
        other = replace(video, labels=tuple((label + 1) % 4 for label in video.labels))
        for frame in range(7):
            clear, covered = (
                [some.scene(is_clear=is_clear).picture(frame) for some in (video, other)]
                for is_clear in (True, False)
            )
            assert np.array_equal(*covered)
            assert not np.array_equal(*clear)


def test_pictures_are_clear_or_covered_as_the_file_says(tiny):
    images = json.loads((tiny / "val.json").read_text())["images"]
    video = draw_video(TINY, "val", 1)

    for image in images[7:]:
        scene = video.scene(is_clear=image["is_clear"])
        written = cv2.imread(str(tiny / image["file_name"]))[..., ::-1].astype(int)
        errors = [
            np.abs(written - some.picture(image["frame_number"])).mean()
            for some in (scene, video.scene(is_clear=not image["is_clear"]))
        ]
        assert errors[0] < errors[1]


def test_every_object_shows_in_full_in_the_first_frame_and_stays():
    for number in range(12):
        video = draw_video(LongRangeConfig(), "train", number)
        scene = video.scene(is_clear=True)
        masks = [item.opacity(0, 128) > 0 for item in scene.objects]
        assert not any((a & b).any() for a, b in combinations(masks, 2))
        for individual in video.individuals:
            radius = individual.diameter / 2
            assert individual.centres.shape == (48, 2)
            assert individual.centres.min() >= radius - 1e-6
            assert individual.centres.max() <= 128 - radius + 1e-6
            steps = np.linalg.norm(np.diff(individual.centres, axis=0), axis=1)
            assert steps.max() <= 2.5 + 1e-6


def test_objects_of_a_video_differ_in_tint():
    for number in range(20):
        tints = [one.tint for one in draw_video(LongRangeConfig(), "train", number).individuals]
        assert 3 <= len(tints) <= 5
        assert min(np.abs(a - b).max() for a, b in combinations(tints, 2)) > 25


def test_neither_tint_nor_size_nor_another_object_tells_the_class():
    config = LongRangeConfig(frames_per_video=1, clear_frames=1)
    videos = [draw_video(config, "train", number) for number in range(300)]
    labels = np.concatenate([video.labels for video in videos])
    traits = np.array([[*i.tint, i.diameter] for video in videos for i in video.individuals])
    pairs = Counter(len(set(video.labels[:2])) for video in videos)

    # Within four standard deviations of what independent draws give.
    count = len(labels)
    assert np.abs(np.bincount(labels) / count - 0.25).max() < 4 * (0.25 * 0.75 / count) ** 0.5
    assert pairs[1] / 300 == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 300) ** 0.5)
    for label in range(4):
        difference = traits[labels == label].mean(axis=0) - traits.mean(axis=0)
        error = traits.std(axis=0) / (labels == label).sum() ** 0.5
        assert (np.abs(difference) < 4 * error).all()


def test_emblems_are_symmetric():
    video = draw_video(LongRangeConfig(frames_per_video=1, clear_frames=1), "train", 0)
    seen = set()
    for label in range(4):
        same = replace(video, labels=(label,) * len(video.labels))
        texture = same.scene(is_clear=True).objects[0].texture
        assert np.allclose(texture, texture[:, ::-1])
        seen.add(texture.tobytes())
    assert len(seen) == 4


def test_a_set_of_another_kind_is_not_taken_for_this_one(tiny):
    with pytest.raises(DataError, match=r"generator: expected .*, found .*--set long_range"):
        ensure_generated(tiny, SyntheticConfig())
    ensure_generated(tiny, TINY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clear_frames": 49}, "clear_frames must be from 0 to 48, found 49"),
        ({"max_objects": 10}, "max_objects must be from 1 to 9, found 10"),
        ({"frames_per_video": 4}, "clear_frames must be from 0 to 4, found 8"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LongRangeConfig(**settings)
