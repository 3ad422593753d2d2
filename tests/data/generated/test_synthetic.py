from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.generated import sets
from vodet.data.generated.degradations import BLURS, DISTURBANCES, degrade
from vodet.data.generated.scenes import (
    CLASS_NAMES,
    MIN_SHARE_IN_PICTURE,
    TEXTURES,
    Scene,
    SceneObject,
)
from vodet.data.generated.sets import ensure_generated, generate
from vodet.data.generated.synthetic import SyntheticConfig, video_scene
from vodet.errors import ConfigError, DataError

TINY = SyntheticConfig(train_videos=3, val_videos=2, frames_per_video=4, size=80)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("generated") / "tiny"
    generate(root, TINY)
    return root


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("workers", [1, 2])
def test_same_seed_same_bytes_for_any_number_of_workers(tiny, tmp_path, workers):
    generate(tmp_path / "again", TINY, workers=workers)

    assert contents(tmp_path / "again") == contents(tiny)


def test_other_seed_other_pictures(tiny, tmp_path):
    generate(tmp_path / "other", replace(TINY, seed=1))

    here, other = contents(tiny), contents(tmp_path / "other")
    pictures = [path for path in here if path.suffix == ".jpg"]
    assert len(pictures) == 5 * 4
    assert here.keys() == other.keys()
    assert all(here[path] != other[path] for path in pictures)


def test_train_and_val_share_no_picture(tiny):
    files = contents(tiny)
    pictures = [data for path, data in files.items() if path.suffix == ".jpg"]

    assert len(set(pictures)) == len(pictures)


def test_longer_split_begins_with_the_same_videos(tiny, tmp_path):
    generate(tmp_path / "more", replace(TINY, train_videos=4))

    here, more = contents(tiny), contents(tmp_path / "more")
    assert all(more[path] == data for path, data in here.items() if path.suffix == ".jpg")


def test_files_are_as_documented(tiny):
    document = json.loads((tiny / "val.json").read_text())

    assert document["images"][5] == {
        "id": 5,
        "file_name": "images/val/val_001/000001.jpg",
        "video": "val_001",
        "frame_number": 1,
        "height": 80,
        "width": 80,
        "degradations": document["images"][5]["degradations"],
    }
    assert [c["name"] for c in document["categories"]] == list(CLASS_NAMES)
    for image in document["images"]:
        assert cv2.imread(str(tiny / image["file_name"])).shape == (80, 80, 3)
    for annotation in document["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert 0 <= x < x + width <= 80
        assert 0 <= y < y + height <= 80
        assert 0 < annotation["area"] <= width * height
        assert annotation["iscrowd"] == 0


@pytest.mark.parametrize(("split", "videos"), [("train", 3), ("val", 2)])
def test_annotations_are_valid_st_coco(tiny, split, videos):
    index = read_st_coco(tiny / f"{split}.json")

    assert (index.num_videos, index.num_frames) == (videos, 4 * videos)
    assert index.class_names == CLASS_NAMES
    assert (index.track_ids >= 0).all()


def test_a_track_is_one_object_of_one_class():
    config = SyntheticConfig(frames_per_video=12)
    classes_seen = set()
    for video in range(6):
        scene = video_scene(config, "train", video)
        for frame in range(12):
            boxes = scene.boxes(frame)
            tracks = [box.track_id for box in boxes]
            assert len(set(tracks)) == len(tracks)
            assert all(box.label == scene.objects[box.track_id].label for box in boxes)
            classes_seen |= {box.label for box in boxes}
    assert classes_seen == set(range(len(CLASS_NAMES)))


def test_objects_overlap_enter_and_leave():
    config = SyntheticConfig(frames_per_video=12)
    first_seen, last_seen, overlaps = [], [], 0
    for video in range(12):
        scene = video_scene(config, "val", video)
        seen = [{box.track_id for box in scene.boxes(frame)} for frame in range(12)]
        for track in range(len(scene.objects)):
            frames = [frame for frame in range(12) if track in seen[frame]] or [0, 11]
            first_seen.append(frames[0])
            last_seen.append(frames[-1])
        masks = [item.opacity(0, scene.size) > 0.5 for item in scene.objects]
        overlaps += np.sum(masks, axis=0).max() > 1

    assert sum(frame > 0 for frame in first_seen) >= 2
    assert sum(frame < 11 for frame in last_seen) >= 2
    assert overlaps >= 4


def test_objects_move_a_few_pixels_a_frame():
    config = SyntheticConfig(frames_per_video=12)
    steps = []
    for video in range(10):
        for item in video_scene(config, "train", video).objects:
            middle = np.array([*(np.array(item.silhouette.shape[::-1]) / 2 - 0.5), 1])
            steps.append(np.linalg.norm(np.diff(item.transforms @ middle, axis=0), axis=1))
    steps = np.concatenate(steps)

    assert 1 < np.median(steps) < 4
    assert steps.max() < 8


def test_boxes_are_tight_around_the_silhouette_in_the_picture():
    config = SyntheticConfig(frames_per_video=8)
    boxes_seen = 0
    for video in range(4):
        scene = video_scene(config, "val", video)
        for frame in range(8):
            for box in scene.boxes(frame):
                mask = scene.objects[box.track_id].opacity(frame, scene.size) >= 0.5
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
                assert box.bbox == (columns[0], rows[0], width, height)
                assert box.area == mask.sum()
                boxes_seen += 1
    assert boxes_seen > 50


def test_silhouette_is_where_the_picture_changes():
    scene = video_scene(SyntheticConfig(frames_per_video=2), "train", 0)
    alone = replace(scene, objects=scene.objects[:1])
    empty = replace(scene, objects=())

    changed = (alone.picture(0) != empty.picture(0)).any(axis=2)
    opacity = scene.objects[0].opacity(0, scene.size)

    assert not changed[opacity == 0].any()
    assert changed[opacity == 1].mean() > 0.95


def test_mean_colour_does_not_give_the_texture_away():
    config = SyntheticConfig(frames_per_video=1, min_objects=20, max_objects=20, size=64)
    means = {texture: [] for texture in TEXTURES}
    for video in range(15):
        for item in video_scene(config, "train", video).objects:
            colour = np.tensordot(item.silhouette, item.texture, 2) / item.silhouette.sum()
            means[CLASS_NAMES[item.label].split()[0]].append(colour)

    centres = [np.mean(colours, axis=0) for colours in means.values()]
    spreads = [np.std(colours, axis=0) for colours in means.values()]
    assert np.ptp(centres, axis=0).max() < np.mean(spreads) / 2
    assert np.ptp(spreads, axis=0).max() < np.mean(spreads) / 4


def square(side, x, y, size=40):
    """An opaque square whose top left corner lies on ``(x, y)``."""
    shift = np.array([[[1.0, 0, x], [0, 1.0, y]]])
    texture = np.full((side, side, 3), 255, dtype=np.float32)
    return SceneObject(0, texture, np.ones((side, side), dtype=np.float32), shift)


def scene_of(*objects):
    return Scene(40, np.zeros((40, 40, 3), dtype=np.float32), np.zeros((1, 2)), objects)


def test_boxes_cover_what_is_hidden_by_other_objects():
    boxes = scene_of(square(10, 5, 6), square(10, 10, 6)).boxes(0)

    assert [(box.track_id, box.bbox, box.area) for box in boxes] == [
        (0, (5, 6, 10, 10), 100),
        (1, (10, 6, 10, 10), 100),
    ]


@pytest.mark.parametrize(("shown", "annotated"), [(4, True), (2, False)])
def test_an_object_with_little_area_in_the_picture_is_left_out(shown, annotated):
    boxes = scene_of(square(10, 40 - shown, 20)).boxes(0)

    assert [box.bbox for box in boxes] == [(40 - shown, 20, shown, 10)] * annotated
    assert MIN_SHARE_IN_PICTURE == 0.25


@pytest.mark.parametrize(("uncovered", "annotated"), [(4, True), (2, False)])
def test_an_object_nearly_wholly_covered_is_left_out(uncovered, annotated):
    boxes = scene_of(square(10, 10, 10), square(10, 10 + uncovered, 10)).boxes(0)

    assert [box.track_id for box in boxes] == [0, 1] if annotated else [1]


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5])
def test_frames_are_degraded_at_the_given_rate(tmp_path, rate):
    config = SyntheticConfig(
        train_videos=10, val_videos=1, frames_per_video=32, size=64, degradation_rate=rate
    )
    generate(tmp_path / "set", config)
    images = json.loads((tmp_path / "set/train.json").read_text())["images"]
    degraded = np.array([bool(image["degradations"]) for image in images])

    # Three standard deviations of 320 independent draws, which vary more than these.
    assert degraded.mean() == pytest.approx(rate, abs=3 * (rate * (1 - rate) / 320) ** 0.5)
    by_video = degraded.reshape(10, 32)
    assert not (by_video[:, 1:] & by_video[:, :-1]).any()
    if rate == 0.3:
        names = {name for image in images for name in image["degradations"]}
        assert names == {*BLURS, *DISTURBANCES}


def test_degradation_changes_no_scene_and_no_box(tmp_path):
    generate(tmp_path / "clean", replace(TINY, degradation_rate=0.0))
    generate(tmp_path / "mixed", TINY)
    clean, mixed = (
        json.loads((tmp_path / n / "train.json").read_text()) for n in ("clean", "mixed")
    )

    assert clean["annotations"] == mixed["annotations"]
    for image in mixed["images"]:
        same = [(tmp_path / n / image["file_name"]).read_bytes() for n in ("clean", "mixed")]
        assert (same[0] == same[1]) == (not image["degradations"])


def test_degradation_takes_the_texture_away():
    stripes = 127.5 + 80 * np.sign(np.sin(2 * np.pi * (np.arange(154) + 0.5) / 11))
    picture = np.broadcast_to(stripes[None, :, None], (154, 154, 3)).round().astype(np.uint8)

    def contrast(image):
        """Amplitude of the frequency of the stripes, which repeat 14 times."""
        return np.abs(np.fft.rfft(image.mean(axis=(0, 2))))[14]

    rng = np.random.default_rng(0)
    kept = [contrast(degrade(picture, rng)[0]) / contrast(picture) for _ in range(60)]

    assert np.mean(kept) < 0.05
    assert np.max(kept) < 0.2


def test_degrade_leaves_its_input_alone():
    picture = np.full((64, 64, 3), 100, dtype=np.uint8)

    degraded, names = degrade(picture, np.random.default_rng(0))

    assert (picture == 100).all()
    assert degraded.dtype == np.uint8
    assert names[0] in BLURS
    assert names[1] in DISTURBANCES


def test_existing_folder_is_refused(tiny):
    with pytest.raises(DataError, match=r"tiny exists already.*overwrite"):
        generate(tiny, TINY)


def test_overwrite_replaces_a_generated_set(tmp_path):
    generate(tmp_path / "set", replace(TINY, train_videos=4))
    generate(tmp_path / "set", TINY, overwrite=True)

    assert not (tmp_path / "set/images/train/train_003").exists()


def test_overwrite_never_removes_anything_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")

    with pytest.raises(DataError, match=r"is not a generated set.*config\.json, found none"):
        generate(tmp_path, TINY, overwrite=True)
    (tmp_path / "config.json").write_text('{"model": "my own"}')
    with pytest.raises(DataError, match=r"config\.json was not written by `vodet-data generate`"):
        generate(tmp_path, TINY, overwrite=True)

    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sets, "_write_jpeg", interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "set", TINY, workers=1)

    assert list(tmp_path.iterdir()) == []


def test_ensure_generated_makes_a_set_once(tmp_path):
    ensure_generated(tmp_path / "a/set", TINY)
    made = (tmp_path / "a/set/train.json").stat().st_mtime_ns
    ensure_generated(tmp_path / "a/set", TINY)

    assert (tmp_path / "a/set/train.json").stat().st_mtime_ns == made


def test_ensure_generated_refuses_other_settings(tiny):
    with pytest.raises(DataError, match=r"other settings \(seed: expected 7, found 0\)"):
        ensure_generated(tiny, replace(TINY, seed=7))


def test_ensure_generated_refuses_another_folder(tmp_path):
    with pytest.raises(DataError, match="is not a generated set"):
        ensure_generated(tmp_path, TINY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"degradation_rate": 1.5}, "degradation_rate must be from 0 to 0.5, found 1.5"),
        ({"size": 10}, "size must be from 64 to 4096, found 10"),
        ({"min_objects": 9}, "min_objects must be from 0 to 5, found 9"),
        ({"train_videos": 0, "seed": -1}, "train_videos .* found 0; seed .* found -1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticConfig(**settings)
