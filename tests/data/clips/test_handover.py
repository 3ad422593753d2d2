from __future__ import annotations

from functools import partial
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from vodet.data.clips import handover
from vodet.data.clips.handover import MAX_SLOTS, empty_frames
from vodet.structures import ClipBatch, ClipLayout, FrameInfo, Target, VideoChunk


def handed_over(value):
    return ForkingPickler.loads(ForkingPickler.dumps(value))


def chunk(frames):
    infos = tuple(FrameInfo("v", 0, 0, (4, 4), (4, 4)) for _ in frames)
    return VideoChunk(frames, infos, is_first=True, is_last=False)


@pytest.fixture
def slots(monkeypatch):
    monkeypatch.setattr(handover, "get_worker_info", lambda: True)
    slots = []
    monkeypatch.setattr(handover, "_slots", slots)
    return slots


def test_a_slot_is_used_again_once_nothing_refers_to_it(slots):
    first = empty_frames(2, 3, 4, 4).fill_(7)
    received = handed_over(chunk(first))
    second = empty_frames(2, 3, 4, 4).fill_(9)

    assert second.data_ptr() != first.data_ptr()
    assert (received.frames == 7).all()
    part = received.frames[1:]
    del received
    assert empty_frames(2, 3, 4, 4).data_ptr() not in (first.data_ptr(), second.data_ptr())
    assert (part == 7).all()
    del part
    assert empty_frames(2, 3, 4, 4).data_ptr() == first.data_ptr()
    assert len(slots) == 3


@torch.inference_mode()
def test_slots_are_given_back_in_inference_mode_too(slots):
    handed_over(chunk(empty_frames(1, 3, 4, 4)))

    assert [slot[-1].item() for slot in slots] == [0]


def test_free_slots_that_are_too_small_make_room(slots):
    handed_over(chunk(empty_frames(1, 3, 4, 4)))
    empty_frames(2, 3, 4, 4)

    assert [len(slot) for slot in slots] == [97]


def test_who_keeps_everything_does_not_make_the_worker_keep_it_too(slots):
    kept = [handed_over(chunk(empty_frames(1, 3, 4, 4).fill_(n))) for n in range(MAX_SLOTS + 5)]

    assert len(slots) == MAX_SLOTS
    assert [int(one.frames.max()) for one in kept] == list(range(MAX_SLOTS + 5))


@pytest.mark.parametrize("is_in_slot", [False, True])
def test_batches_arrive_whole(slots, is_in_slot):
    target = Target(
        boxes=torch.rand(2, 4),
        labels=torch.tensor([1, 0]),
        track_ids=torch.tensor([5, -1]),
        iscrowd=torch.tensor([False, True]),
    )
    info, other = (FrameInfo("v", number, 4, (8, 9), (4, 4)) for number in (3, 5))
    make = empty_frames if is_in_slot else partial(torch.empty, dtype=torch.uint8)
    frames = make(1, 2, 3, 4, 4)
    frames[:, 0], frames[:, 1] = 2, 3
    layout = ClipLayout(((0,),), 0, 0, history=((1,),))
    sent = ClipBatch(frames, ((info, other),), ((target, target),), layout)
    batch = handed_over(sent)

    assert (batch.frames[:, 0] == 2).all()
    assert (batch.frames[:, 1] == 3).all()
    assert batch.layout == layout
    assert batch.infos == ((info, other),)
    assert len(batch.targets[0]) == 2
    for one in batch.targets[0]:
        assert all(torch.equal(one[key], target[key]) for key in target)
    del batch, frames
    assert [slot[-1].item() for slot in slots] == [0] * is_in_slot


class Counted(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, number):
        return chunk(empty_frames(2, 3, 4, 4).fill_(number))


def test_a_loader_does_not_overwrite_what_its_user_keeps():
    kept = [(n, one) for n, one in enumerate(DataLoader(Counted(), None, num_workers=2)) if n % 3]

    assert all((one.frames == number).all() for number, one in kept)


def test_outside_of_workers_memory_is_ordinary():
    assert not empty_frames(1, 3, 4, 4).is_shared()
