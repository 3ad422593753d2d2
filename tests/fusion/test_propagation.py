from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from torch import Tensor

from vodet.encodings import Candidates, CandidateSpec, EncodedFrames, FeatureMaps, State
from vodet.errors import ConfigError
from vodet.fusion.long_term_attention import LongTermAttention
from vodet.fusion.propagation import (
    PROPAGATED_FROM,
    assigned_by_attention,
    assigned_by_links,
    propagated,
)


def boxes_of(count: int, start: float = 0.0, side: float = 4.0) -> Tensor:
    """Squares side by side, ten pixels apart."""
    left = start + 10.0 * torch.arange(count)
    return torch.stack((left, left * 0, left + side, left * 0 + side), dim=1)


def current(boxes: Tensor, objectness=None, lengths=None) -> Candidates:
    """Candidates of clips ``[B, N, 4]`` in the second of two frames."""
    clips, count = boxes.shape[:2]
    logits = torch.zeros(clips, count) if objectness is None else torch.tensor([objectness])
    is_valid = torch.arange(count) < torch.tensor(lengths or [count] * clips).unsqueeze(1)
    both = torch.stack((torch.full_like(boxes, -1), boxes), dim=1)
    features = torch.zeros(clips, 2, count, 1, 1, 1)
    return Candidates(
        features=features.unbind(1),
        boxes=both,
        scores=torch.stack((9 * torch.rand(clips, count), logits), dim=1),
        is_valid=torch.stack((torch.ones_like(is_valid), is_valid), dim=1),
        sizes=torch.tensor([[100, 100]] * clips),
        reference=1,
        linked=True,
        extras={},
    )


def memory_of(*frames: Tensor) -> State:
    """Key frames of a video, of as many candidates as there are, and one that is not there."""
    lengths = torch.tensor([len(boxes) for boxes in (*frames, [])])
    is_valid = torch.arange(int(lengths.max()) + 1) < lengths.unsqueeze(1)
    boxes = torch.full((*is_valid.shape, 4), -7.0)
    boxes[is_valid] = torch.cat((*frames, torch.zeros(0, 4)))
    return {"boxes": boxes[None], "is_valid": is_valid[None]}


def moved(memory: State, weights, now: Candidates, *, to_center: bool = False) -> list[list]:
    """Boxes of each key frame afterwards; weights are of the candidates that are there."""
    weights = torch.as_tensor(weights, dtype=torch.float32)
    is_valid = memory["is_valid"][0]
    count = int(is_valid.sum())
    padded = torch.full((len(weights), is_valid.numel()), 9.0)
    padded[:, is_valid.flatten()] = weights[:, :count]
    padded = torch.cat((padded, weights[:, count:]), dim=1)
    assigned = assigned_by_attention(memory, padded[None], now.current)
    (after,) = propagated(memory, assigned, now.current, to_center=to_center)
    assert (after[~is_valid] == -7).all()
    kept = [boxes[valid].tolist() for boxes, valid in zip(after, is_valid, strict=True)]
    return kept[:-1]


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
    # e^0.9 + e^0 < e^0.8 + e^0.7: candidate 0 likes key 0 best, and yet takes key 1.
    found = moved(memory_of(boxes_of(2)), [[0.9, 0.8], [0.7, 0.0]], current(now[None]))
    assert found == [now[[1, 0]].tolist()]


def test_certain_candidates_count_more():
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


def test_with_fewer_current_candidates_the_others_stay():
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
def test_without_current_candidates_boxes_stay(to_center):
    old = boxes_of(2)
    candidates = current(boxes_of(3, start=50)[None], lengths=[0])
    found = moved(memory_of(old), torch.ones(3, 2), candidates, to_center=to_center)
    assert found == [old.tolist()]
    none = current(torch.zeros(1, 0, 4))
    assert moved(memory_of(old), torch.ones(0, 2), none, to_center=to_center) == [old.tolist()]


def test_a_key_frame_without_candidates_stays_so():
    now = boxes_of(1, start=50)
    found = moved(memory_of(boxes_of(0), boxes_of(1)), [[0.5]], current(now[None]))
    assert found == [[], now.tolist()]
    assert moved(memory_of(), torch.ones(1, 2), current(now[None])) == []


def test_padding_is_not_assigned_and_clips_do_not_meet():
    now = torch.stack((boxes_of(2, start=50), boxes_of(2, start=70)))
    candidates = current(now, lengths=[1, 2])
    weights = torch.tensor([[[0.1], [0.9]], [[0.1], [0.9]]])
    one = {"boxes": boxes_of(1)[None, None], "is_valid": torch.ones(1, 1, 1, dtype=torch.bool)}
    state = {name: torch.cat((value, value)) for name, value in one.items()}
    assigned = assigned_by_attention(state, weights, candidates.current)
    after = propagated(state, assigned, candidates.current, to_center=False)
    assert after[:, 0].tolist() == [now[0, :1].tolist(), now[1, 1:].tolist()]


def test_boxes_follow_the_best_candidates_alone():
    count = PROPAGATED_FROM + 10
    now, weights = boxes_of(count, start=50), torch.zeros(count, 1)
    weights[PROPAGATED_FROM - 1], weights[PROPAGATED_FROM] = 1, math.e
    found = moved(memory_of(boxes_of(1)), weights[:PROPAGATED_FROM], current(now[None]))
    assert PROPAGATED_FROM == 150
    assert found == [now[PROPAGATED_FROM - 1 : PROPAGATED_FROM].tolist()]


def links(previous: Tensor, is_current=None) -> tuple[Tensor, Tensor]:
    valid = torch.ones(1, len(previous), dtype=torch.bool)
    return previous[None], valid if is_current is None else torch.tensor([is_current])


def test_a_remembered_box_follows_the_candidate_it_overlapped_most_one_frame_ago():
    """By hand: boxes of 4 x 4 at x = 0, 10, 20; candidates that lay 1 and 2 pixels to the right."""
    previous = torch.cat((boxes_of(2, start=1), boxes_of(2, start=2)))
    # IoU with a box 1 pixel away: 12 / 20; 2 pixels: 8 / 24.
    assert assigned_by_links(memory_of(boxes_of(3)), *links(previous)).tolist() == [
        [[0, 1, -1, -1], [-1] * 4]
    ]
    without_first = links(previous, [False, True, True, True])
    assert assigned_by_links(memory_of(boxes_of(3)), *without_first).tolist() == [
        [[2, 1, -1, -1], [-1] * 4]
    ]


@pytest.mark.parametrize(("shift", "assigned"), [(2.0, 0), (2.2, -1)])  # IoU 8 / 24 and 7.2 / 24.8
def test_a_box_with_an_iou_below_three_tenths_follows_none(shift, assigned):
    found = assigned_by_links(memory_of(boxes_of(1)), *links(boxes_of(1, start=shift)))
    assert found[0, 0, 0] == assigned


def test_several_boxes_follow_one_candidate():
    now = boxes_of(1, start=50)
    memory = memory_of(torch.cat((boxes_of(1), boxes_of(1, start=1))), boxes_of(1, start=-1))
    assigned = assigned_by_links(memory, *links(boxes_of(1)))
    after = propagated(memory, assigned, current(now[None]).current, to_center=False)
    assert after[memory["is_valid"]].tolist() == now.tolist() * 3


def test_without_candidates_no_box_follows():
    found = assigned_by_links(memory_of(boxes_of(2)), *links(torch.zeros(0, 4)))
    assert (found == -1).all()


def test_only_the_best_candidates_are_followed():
    previous = torch.cat((boxes_of(PROPAGATED_FROM, start=500), boxes_of(1)))
    assert (assigned_by_links(memory_of(boxes_of(1)), *links(previous)) == -1).all()


FRAMES = EncodedFrames(FeatureMaps((torch.zeros(1, 1, 2, 2),)), torch.tensor([[100, 100]]), {})


def linking(propagate: str = "replace") -> LongTermAttention:
    module = LongTermAttention(
        CandidateSpec(1),
        width=16,
        group_width=8,
        keys_per_frame=2,
        key_frame_interval=100,
        propagate=propagate,
        assignment="linking",
    )
    return module.eval()


@pytest.mark.parametrize("propagate", ["replace", "center"])
def test_boxes_follow_objects_through_a_video(propagate):
    """Two objects cross the picture and meet; features and scores do not tell them apart."""
    module = linking(propagate)
    lower = torch.tensor([0.0, 3, 0, 3])
    paths = [
        torch.cat((boxes_of(1, 2.0 * t), boxes_of(1, 40 - 2.0 * t) + lower)) for t in range(20)
    ]
    state = module.begin(1, FRAMES)
    for number, path in enumerate(paths):
        order = [0, 1] if number % 2 else [1, 0]  # which of them has the higher score
        now = current(path[order][None])
        before = paths[max(number - 1, 0)][order][None]
        now = replace(now, boxes=torch.stack((before, path[order][None]), 1), previous_boxes=before)
        _, state = module(now, state)
    torch.testing.assert_close(state["boxes"][0, 0], paths[-1][[1, 0]])


def test_following_links_needs_links():
    module, state = linking(), linking().begin(1, FRAMES)
    with pytest.raises(ConfigError, match=r"assignment=linking.*window with past >= 1"):
        module(current(boxes_of(2)[None]), state)
    linking("none")(current(boxes_of(2)[None]), state)
    module.train()(current(boxes_of(2)[None]), state)
