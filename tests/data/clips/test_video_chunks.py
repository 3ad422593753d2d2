from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.clips.video_chunks import NO_VIDEO, VideoChunkDataset
from vodet.data.frames.resize import Letterbox
from vodet.errors import FrameError


def chunks(source, **options):
    return VideoChunkDataset(read_st_coco(source.annotations), source.images, **options)


def numbers(chunk):
    return [(info.video, info.frame_number) for info in chunk.infos]


def damage(source, *names):
    for name in names:
        path = Path(source.images) / name
        path.write_bytes(path.read_bytes()[:-50])


def test_chunks_cover_each_video_in_order(source):
    dataset = chunks(source, chunk_size=3)
    made = [dataset[chunk] for chunk in range(len(dataset))]

    assert [len(chunk.frames) for chunk in made] == [3, 3, 1, 2, 1]
    assert [numbers(chunk)[0] for chunk in made] == [
        ("long", 0),
        ("long", 3),
        ("long", 6),
        ("short", 0),
        ("still", 0),
    ]
    assert [(chunk.is_first, chunk.is_last) for chunk in made] == [
        (True, False),
        (False, False),
        (False, True),
        (True, True),
        (True, True),
    ]
    assert dataset.chunks_of_video == [range(3), range(3, 4), range(4, 5)]
    assert [info.is_annotated for info in made[0].infos] == [True, True, False]


def test_chunks_are_resized_and_say_how(source):
    chunk = chunks(source, resize=Letterbox(32, 32))[0]

    assert chunk.frames.shape == (7, 3, 32, 32)
    assert chunk.infos[0].original_size == (48, 64)
    assert chunk.infos[0].size == (24, 32)
    assert not chunk.frames[:, :, 24:].any()


def test_the_empty_chunk(source):
    chunk = chunks(source)[NO_VIDEO]

    assert chunk.frames.shape == (0, 3, 1, 1)
    assert chunk.frames.dtype == torch.uint8
    assert chunk.infos == ()


def test_the_last_good_frame_stands_in_for_a_bad_one(source):
    good = chunks(source, chunk_size=3)
    originals = [good[0], good[1]]
    damage(source, "long/000.jpg", "long/002.jpg", "long/003.jpg", "long/005.jpg")
    dataset = chunks(source, chunk_size=3, on_bad_frame="skip")

    first, second = dataset[0], dataset[1]

    assert not first.frames[0].any()  # nothing before it: black
    assert torch.equal(first.frames[1], originals[0].frames[1])
    assert torch.equal(first.frames[2], originals[0].frames[1])
    assert torch.equal(second.frames[0], originals[0].frames[1])  # from the chunk before
    assert torch.equal(second.frames[2], originals[1].frames[1])
    assert [info.is_annotated for info in second.infos] == [False, True, False]
    assert numbers(second) == numbers(originals[1])
    with pytest.raises(FrameError, match=r"long/000.jpg"):
        chunks(source)[0]


def test_a_video_of_two_sizes(source):
    dataset = chunks(source, resize=_Uneven())

    with pytest.raises(
        FrameError, match=r"'long' of .*set.json: .*must have the same size.*Letterbox"
    ):
        dataset[0]


class _Uneven:
    """A resize that gives another size each time."""

    calls = 0

    def target_size(self, original_size):
        return original_size

    def __call__(self, frame):
        self.calls += 1
        return frame[self.calls :]

    def scaled(self, factor):
        raise NotImplementedError
