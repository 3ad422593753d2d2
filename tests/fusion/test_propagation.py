from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from vodet.encodings import KeyFrame, RoIs, TemporalMemory
from vodet.fusion.propagation import CANDIDATES, propagated


def boxes_of(count: int, start: float = 0.0, side: float = 4.0) -> Tensor:
    """Squares side by side, ten pixels apart."""
    left = start + 10.0 * torch.arange(count)
    return torch.stack((left, left * 0, left + side, left * 0 + side), dim=1)


def current(boxes: Tensor, objectness=None, lengths=None) -> RoIs:
    """RoIs of clips ``[B, N, 4]`` in the second of two frames."""
    clips, count = boxes.shape[:2]
    logits = torch.zeros(clips, count) if objectness is None else torch.tensor([objectness])
    is_valid = torch.arange(count) < torch.tensor(lengths or [count] * clips).unsqueeze(1)
    both = torch.stack((torch.full_like(boxes, -1), boxes), dim=1)
    features = torch.zeros(clips, 2, count, 1, 1, 1)
    return RoIs(features.unbind(1), both, logits, is_valid, torch.tensor([[100, 100]] * clips), 1)


def memory_of(*frames: Tensor) -> TemporalMemory:
    keys = [KeyFrame(torch.arange(len(boxes) * 1.0).view(-1, 1), boxes) for boxes in frames]
    return TemporalMemory(5, tuple(keys))


def moved(memory: TemporalMemory, weights, rois: RoIs, *, to_center: bool = False) -> list[list]:
    weights = torch.as_tensor(weights, dtype=torch.float32).unsqueeze(0)
    (after,) = propagated([memory], weights, rois, to_center=to_center)
    assert after.answered == memory.answered
    for frame, old in zip(after.key_frames, memory.key_frames, strict=True):
        assert torch.equal(frame.features, old.features)
    return [frame.boxes.tolist() for frame in after.key_frames]


def test_replace_takes_the_box_assigned():
    now = boxes_of(2, start=50, side=6)
    found = moved(memory_of(boxes_of(2)), [[0.1, 0.9], [0.8, 0.2]], current(now[None]))
    assert found == [now[[1, 0]].tolist()]


def test_center_moves_to_the_centre_of_the_box_assigned():
    now = torch.tensor([[[10.0, 20, 30, 60]]])
    found = moved(memory_of(torch.tensor([[0.0, 0, 6, 2]])), [[1.0]], current(now), to_center=True)
    assert found == [[[17, 39, 23, 41]]]


def test_the_sum_counts_not_the_best_alone():
    now = boxes_of(2, start=50)
    # e^0.9 + e^0 < e^0.8 + e^0.7: RoI 0 likes key 0 best, and yet takes key 1.
    found = moved(memory_of(boxes_of(2)), [[0.9, 0.8], [0.7, 0.0]], current(now[None]))
    assert found == [now[[1, 0]].tolist()]


def test_certain_rois_count_more():
    now = boxes_of(2, start=50)
    weights = [[0.3], [0.5]]
    memory = memory_of(boxes_of(1))
    found = moved(memory, weights, current(now[None], [0.21, 0.0]))  # 0.3 + 0.21 > 0.5
    assert found == [now[:1].tolist()]
    found = moved(memory, weights, current(now[None], [0.19, 0.0]))
    assert found == [now[1:].tolist()]


@pytest.mark.parametrize("remembered", [3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_best_of_all(remembered, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(4, remembered, generator=generator)
    objectness = torch.randn(4, generator=generator).tolist()
    old, now = boxes_of(remembered), boxes_of(4, start=500)
    value = torch.tensor(objectness).softmax(0)[:, None] * weights.exp()
    pairs = min(4, remembered)
    if remembered < 4:
        choices = [
            list(zip(rows, range(pairs), strict=True)) for rows in permutations(range(4), pairs)
        ]
    else:
        columns = permutations(range(remembered), pairs)
        choices = [list(zip(range(pairs), chosen, strict=True)) for chosen in columns]
    best = max(choices, key=lambda choice: sum(value[pair].item() for pair in choice))
    expected = old.clone()
    for row, column in best:
        expected[column] = now[row]
    found = moved(memory_of(old), weights, current(now[None], objectness))
    assert found == [expected.tolist()]


def test_with_fewer_current_rois_the_others_stay():
    now, old = boxes_of(1, start=50), boxes_of(3)
    found = moved(memory_of(old), [[0.1, 0.9, 0.5]], current(now[None]))
    assert found == [[old[0].tolist(), now[0].tolist(), old[2].tolist()]]


def test_each_key_frame_is_assigned_by_itself():
    now = boxes_of(2, start=50)
    weights = [[0.9, 0.8, 0.1], [0.1, 0.2, 0.3]]  # keys 0 and 1 are of the first frame
    found = moved(memory_of(boxes_of(2), boxes_of(1)), weights, current(now[None]))
    assert found == [now.tolist(), now[1:].tolist()]


def test_weights_behind_those_of_the_memory_are_of_others():
    now = boxes_of(2, start=50)
    found = moved(memory_of(boxes_of(1)), [[0.1, 9.0], [0.2, 9.0]], current(now[None]))
    assert found == [now[1:].tolist()]


@pytest.mark.parametrize("to_center", [False, True])
def test_without_current_rois_boxes_stay(to_center):
    old = boxes_of(2)
    rois = current(boxes_of(3, start=50)[None], lengths=[0])
    found = moved(memory_of(old), torch.ones(3, 2), rois, to_center=to_center)
    assert found == [old.tolist()]
    none = current(torch.zeros(1, 0, 4))
    assert moved(memory_of(old), torch.ones(0, 2), none, to_center=to_center) == [old.tolist()]


def test_a_key_frame_without_rois_stays_so():
    now = boxes_of(1, start=50)
    found = moved(memory_of(boxes_of(0), boxes_of(1)), [[0.5]], current(now[None]))
    assert found == [[], now.tolist()]
    assert moved(memory_of(), torch.ones(1, 2), current(now[None])) == []


def test_padding_is_not_assigned_and_clips_do_not_meet():
    now = torch.stack((boxes_of(2, start=50), boxes_of(2, start=70)))
    rois = current(now, lengths=[1, 2])
    weights = torch.tensor([[[0.1], [0.9]], [[0.1], [0.9]]])
    memories = [memory_of(boxes_of(1)), memory_of(boxes_of(1))]
    after = propagated(memories, weights, rois, to_center=False)
    assert [m.key_frames[0].boxes.tolist() for m in after] == [
        now[0, :1].tolist(),
        now[1, 1:].tolist(),
    ]


def test_only_the_best_rois_are_candidates():
    count = CANDIDATES + 10
    now, weights = boxes_of(count, start=50), torch.zeros(count, 1)
    weights[CANDIDATES - 1], weights[CANDIDATES] = 1, math.e
    found = moved(memory_of(boxes_of(1)), weights, current(now[None]))
    assert CANDIDATES == 150
    assert found == [now[CANDIDATES - 1 : CANDIDATES].tolist()]
