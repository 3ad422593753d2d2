from __future__ import annotations

import itertools

import numpy as np
import pytest
from torch import distributed

from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.clips.sampler import ClipSampler, WholeVideoSampler, shard_videos
from vodet.data.clips.video_chunks import VideoChunkDataset
from vodet.errors import DataError


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 10])
def test_each_process_gets_as_many_clips_and_none_twice(world_size):
    samplers = [ClipSampler(10, rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch in range(3):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        shards = [list(sampler) for sampler in samplers]
        sharded = [item for shard in shards for item in shard]

        assert {len(shard) for shard in shards} == {10 // world_size} == {len(samplers[0])}
        assert len(set(sharded)) == len(sharded)
        assert {draw.epoch for draw in sharded} == {epoch}
        assert {draw.clip for draw in sharded} <= set(range(10))


def test_the_order_depends_on_seed_and_epoch():
    def order(seed, epoch):
        sampler = ClipSampler(50, seed=seed)
        sampler.set_epoch(epoch)
        return [draw.clip for draw in sampler]

    assert sorted(order(0, 0)) == list(range(50))
    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(2)}) == 4


def test_the_rest_is_another_one_in_each_epoch():
    left_out = set()
    for epoch in range(20):
        sharded = set()
        for rank in range(3):
            sampler = ClipSampler(11, rank=rank, world_size=3)
            sampler.set_epoch(epoch)
            sharded |= {draw.clip for draw in sampler}
        left_out |= set(range(11)) - sharded

    assert len(left_out) > 5


def test_fewer_clips_than_processes():
    sampler = ClipSampler(2, rank=0, world_size=3)
    for ask in (len, list):
        with pytest.raises(DataError, match=r"3 processes needs at least 3 clips, found 2"):
            ask(sampler)


def test_videos_are_sharded_longest_first_to_the_least_loaded():
    assert shard_videos([3, 9, 4, 4, 2], 2) == [[1, 4], [0, 2, 3]]
    assert shard_videos([5, 5, 5], 1) == [[0, 1, 2]]
    assert shard_videos([5, 7], 4) == [[1], [0], [], []]
    assert shard_videos([], 2) == [[], []]


def test_videos_are_sharded_whole_once_and_nearly_evenly():
    generator = np.random.default_rng(0)
    for world_size in (2, 3, 4):
        lengths = generator.integers(1, 40, 7).tolist()
        shards = shard_videos(lengths, world_size)
        best = min(
            max(
                sum(length for length, r in zip(lengths, ranks, strict=True) if r == rank)
                for rank in range(world_size)
            )
            for ranks in itertools.product(range(world_size), repeat=len(lengths))
        )

        assert sorted(video for shard in shards for video in shard) == list(range(7))
        assert max(sum(lengths[v] for v in shard) for shard in shards) <= 4 / 3 * best


def test_chunks_of_a_process_are_those_of_its_videos_in_order(source):
    dataset = VideoChunkDataset(read_st_coco(source.annotations), source.images, chunk_size=3)
    samplers = [WholeVideoSampler(dataset, rank=rank, world_size=4) for rank in range(4)]

    assert dataset.video_lengths == [7, 2, 1]
    assert [list(sampler) for sampler in samplers] == [[0, 1, 2], [3], [4], [-1]]
    assert [len(sampler) for sampler in samplers] == [3, 1, 1, 1]
    assert list(WholeVideoSampler(dataset)) == [0, 1, 2, 3, 4]


def test_samplers_ask_for_the_process_when_they_are_iterated(source, monkeypatch):
    dataset = VideoChunkDataset(read_st_coco(source.annotations), source.images, chunk_size=3)
    videos, clips = WholeVideoSampler(dataset), ClipSampler(10)
    assert (len(videos), len(clips)) == (5, 10)

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)

    assert list(videos) == [3, 4]
    assert (len(videos), len(clips)) == (2, 5)
    assert list(clips) == list(ClipSampler(10, rank=1, world_size=2))
