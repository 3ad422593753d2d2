from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.clips.dataset import ClipDataset
from vodet.data.clips.mixture import MixedClips, class_balance, draw_clips
from vodet.data.clips.sampler import ClipSampler
from vodet.data.clips.sampling import ClipDraw, ClipSampling
from vodet.errors import ConfigError
from vodet.structures import Window


def clips_of(source) -> ClipDataset:
    return ClipDataset(read_st_coco(source.annotations), source.images, ClipSampling(Window()))


def test_a_clip_belongs_to_one_set(write_set):
    parts = [clips_of(write_set("a", {"a": 2}, unannotated=())), clips_of(write_set("b", {"b": 3}))]
    mixed = MixedClips(parts)

    videos = [mixed[ClipDraw(0, clip)].infos[0] for clip in range(len(mixed))]

    assert [(info.video, info.frame_number) for info in videos] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("b", 1),
        ("b", 2),
    ]
    assert mixed.weights([None, None]) is None


def test_weights_follow_the_shares(write_set):
    parts = [clips_of(write_set("a", {"a": 2}, unannotated=())), clips_of(write_set("b", {"b": 3}))]

    weights = MixedClips(parts).weights([3, 1])

    np.testing.assert_allclose(weights / weights.sum(), [3 / 8, 3 / 8, 1 / 12, 1 / 12, 1 / 12])


@pytest.mark.parametrize("shares", [(1, None), (1, 0), (-1, 1), (1, math.nan), (1, True)])
def test_shares_for_all_or_none(write_set, shares):
    mixed = MixedClips([clips_of(write_set("a")), clips_of(write_set("b"))])
    with pytest.raises(ConfigError, match=r"above 0 for each .*data.train.share.*or for none"):
        mixed.weights(shares)


def test_balance_over_all_sets_and_within_each(write_set):
    red = clips_of(write_set("red", {"a": 3}, categories=((1, "red"),)))
    both = clips_of(write_set("both", {"b": 1}, categories=((1, "red"), (2, "green"))))
    mixed = MixedClips([red, both])

    # Red in four clips, green in one.
    np.testing.assert_allclose(mixed.weights([None, None], True), [1 / 8, 1 / 8, 1 / 8, 5 / 8])
    np.testing.assert_allclose(mixed.weights([1, 1], True), [1 / 3, 1 / 3, 1 / 3, 1])


def test_class_balance_draws_every_class_alike():
    rng = np.random.default_rng(0)
    labels = [set(rng.choice(5, 2, p=[0.6, 0.2, 0.1, 0.06, 0.04])) for _ in range(200)]
    labels += [set() for _ in range(50)]
    pairs = [(clip, label) for clip, own in enumerate(labels) for label in own]
    pairs += pairs[:20]  # two objects of a class count as one

    weights = class_balance(*np.array(pairs).T, 250)

    # Slowly: draw a class, then a clip that shows it.
    expected = np.zeros(250)
    for label in range(5):
        shows = [clip for clip, own in enumerate(labels) if label in own]
        expected[shows] += 0.8 / 5 / len(shows)
    expected[200:] = 1 / 250
    np.testing.assert_allclose(weights, expected)


def test_without_objects_all_clips_are_alike():
    none = np.empty(0, np.int64)
    np.testing.assert_allclose(class_balance(none, none, 4), [0.25] * 4)


@pytest.mark.parametrize("offset", [0.0, 0.3, 0.999])
def test_clips_are_drawn_as_often_as_expected(offset):
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=500)

    clips, repeats = draw_clips(weights, offset)

    assert len(clips) == 500
    counts = np.bincount(clips, minlength=500)
    assert (np.abs(counts - 500 * weights / weights.sum()) < 1).all()
    assert sorted(zip(clips, repeats, strict=True)) == [
        (clip, repeat) for clip in range(500) for repeat in range(counts[clip])
    ]


def test_equal_weights_draw_each_clip_once():
    clips, repeats = draw_clips(np.full(1000, 0.1), 0.7)
    assert clips.tolist() == list(range(1000))
    assert not repeats.any()


def test_processes_share_weighted_draws():
    weights = np.array([1.0, 5.0, 1.0, 1.0, 2.0])
    totals = Counter()
    for epoch in range(200):
        samplers = [
            ClipSampler(5, weights=weights, rank=rank, world_size=2, seed=3) for rank in (0, 1)
        ]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        draws = [draw for sampler in samplers for draw in sampler]
        assert len(set(draws)) == len(draws) == 4
        totals.update(draw.clip for draw in draws)

    assert [totals[clip] / 80 for clip in range(5)] == pytest.approx(weights, rel=0.15)
