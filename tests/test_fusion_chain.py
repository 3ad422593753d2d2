"""Several candidate fusions as one: their order, their states, what they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from vodet.encodings import Candidates, CandidateSpec, EncodedFrames, FeatureMaps, State
from vodet.errors import ConfigError
from vodet.fusion.long_term_attention import LongTermAttention
from vodet.fusion.tubelet_aggregation import TubeletAggregation
from vodet.fusion_chain import FusionChain
from vodet.stages import CandidateFusion, CandidateFusionFactories, ReferenceTargets
from vodet.structures import Target

SPEC = CandidateSpec(4, 2)
FRAMES = EncodedFrames(FeatureMaps((torch.zeros(1, 4, 2, 2),)), torch.tensor([[100, 100]]), {})


class Linear(CandidateFusion):
    """``factor * x + shift + number of frames so far``."""

    remembers = True
    joins_frames = False

    def __init__(self, spec: CandidateSpec, factor: float = 1, shift: float = 0) -> None:
        super().__init__()
        self.spec = spec
        self.factor, self.shift = factor, shift

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        return {"count": torch.zeros(videos)}

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        count = state["count"].view(-1, 1, 1, 1, 1)
        fused = self.factor * candidates.current.features[0] + self.shift + count
        return candidates.fused(fused), {"count": state["count"] + 1}


class Encoding(CandidateFusion):
    """Adds what it has encoded of the first frame: ``weight`` times the number of candidates."""

    def __init__(self, spec: CandidateSpec, weight: float = 1, keys: int = 0) -> None:
        super().__init__()
        self.spec, self.weight, self.keys_per_frame = spec, weight, keys

    def encode_candidates(self, candidates: Candidates) -> Mapping[str, Tensor]:
        number = self.weight * candidates.boxes.shape[2]
        return {"number": torch.full((len(candidates.boxes),), number)}

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        assert set(candidates.extras) == {"number"}
        number = candidates.extras["number"][:, 0].view(-1, 1, 1, 1, 1)
        return candidates.fused(candidates.current.features[0] + number), state


class Last(CandidateFusion):
    """Remembers the features of the last frame and changes nothing; it finds no extras."""

    remembers = True
    joins_frames = False

    def __init__(self, spec: CandidateSpec, keys: int = 0) -> None:
        super().__init__()
        self.spec, self.keys_per_frame = spec, keys

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        return {"last": torch.zeros(videos)}

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        assert not candidates.extras
        current = candidates.current
        return current, {"last": current.features[0].flatten(1).mean(dim=1)}


class Remembering(Encoding):
    """Remembers the features of the last frame, with what it has encoded of it."""

    remembers = True

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        return {"last": torch.zeros(videos)}

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        fused, _ = super().forward(candidates, state)
        return fused, {"last": fused.features[0].flatten(1).mean(dim=1)}


def candidates_of(
    features: Tensor, reference: int = 0, extras: Mapping[str, Tensor] | None = None
) -> Candidates:
    """Candidates of features ``[B, T, N, C, s, s]``."""
    clips, length, count = features.shape[:3]
    corner = 10.0 * torch.arange(count).view(1, 1, -1, 1).expand(clips, length, count, 2)
    return Candidates(
        features=features.unbind(1),
        boxes=torch.cat((corner, corner + 8), dim=3),
        scores=torch.linspace(1, 0, count).expand(clips, length, count),
        is_valid=torch.ones(clips, length, count, dtype=torch.bool),
        sizes=torch.full((clips, 2), 100),
        reference=reference,
        linked=True,
        extras=extras or {},
    )


def ones(length: int = 1, count: int = 3, clips: int = 2) -> Tensor:
    return torch.ones(clips, length, count, 4, 2, 2)


def values(candidates: Candidates) -> list[float]:
    """The value of all features of each clip."""
    (features,) = candidates.features
    assert features.unique().numel() <= len(features)
    return features[:, 0, 0, 0, 0].tolist()


def test_fusions_are_applied_in_order_and_hand_on_their_states() -> None:
    double, add = partial(Linear, factor=2), partial(Linear, shift=5)
    chain = FusionChain(SPEC, {"twice": double, "add": add})
    state = chain.begin(2, FRAMES)
    assert {name: value.tolist() for name, value in state.items()} == {
        "twice.count": [0, 0],
        "add.count": [0, 0],
    }
    state = {"twice.count": torch.tensor([0.0, 10]), "add.count": torch.tensor([100.0, 0])}
    fused, after = chain(candidates_of(ones()), state)
    assert values(fused) == [2 + 5 + 100, 2 + 10 + 5]
    assert {name: value.tolist() for name, value in after.items()} == {
        "twice.count": [1, 11],
        "add.count": [101, 1],
    }
    other, _ = FusionChain(SPEC, {"add": add, "twice": double})(
        candidates_of(ones()), chain.begin(2, FRAMES)
    )
    assert values(other) == [12, 12]
    assert chain.remembers
    assert not chain.joins_frames


def test_each_fusion_is_built_for_what_the_one_before_gives() -> None:
    attention = partial(LongTermAttention, width=32, group_width=16)
    chain = FusionChain(SPEC, {"first": attention, "second": attention})
    assert [fusion.fcs[0].in_features for fusion in chain.members.values()] == [16, 32]
    assert chain.spec == CandidateSpec(32)


def test_without_a_fusion_the_reference_frame_is_left_as_it_is() -> None:
    chain = FusionChain(SPEC, {})
    features = torch.randn(2, 3, 5, 4, 2, 2)
    fused, state = chain(candidates_of(features, reference=1), chain.begin(2, FRAMES))
    assert torch.equal(fused.features[0], features[:, 1])
    assert len(fused.features) == 1
    assert fused.reference == 0
    assert state == {}
    assert chain.spec == SPEC
    assert not chain.remembers
    assert not chain.needs_links
    assert not chain.joins_frames
    assert not chain.encodes_candidates
    assert chain.encode_candidates(candidates_of(features)) == {}


def test_a_chain_asks_for_what_any_of_its_fusions_needs() -> None:
    attention = partial(LongTermAttention, width=32, group_width=16, keys_per_frame=7)
    chain = FusionChain(SPEC, {"aggregation": TubeletAggregation, "attention": attention})
    assert chain.needs_links
    assert chain.joins_frames
    assert chain.remembers
    assert chain.keys_per_frame == 7
    alone = FusionChain(SPEC, {"attention": attention})
    assert (alone.needs_links, alone.joins_frames, alone.remembers) == (False, False, True)


def test_what_the_first_fusion_has_encoded_it_alone_finds() -> None:
    fusions = {"ten": partial(Encoding, weight=10.0, keys=2), "last": partial(Last, keys=3)}
    chain = FusionChain(SPEC, fusions)
    encoded = chain.encode_candidates(candidates_of(ones(count=9)))
    assert {name: value.tolist() for name, value in encoded.items()} == {"ten.number": [20, 20]}
    assert chain.encodes_candidates
    assert chain.keys_per_frame == 3
    extras = {name: value.unsqueeze(1) for name, value in encoded.items()}
    fused, after = chain(candidates_of(ones(), extras=extras), chain.begin(2, FRAMES))
    assert values(fused) == [21, 21]
    assert after["last.last"].tolist() == [21, 21]


def test_a_fusion_that_keeps_all_candidates_encodes_all_of_them() -> None:
    chain = FusionChain(SPEC, {"all": partial(Encoding, weight=1.0, keys=0)})
    assert chain.encode_candidates(candidates_of(ones(count=9)))["all.number"].tolist() == [9, 9]
    fusions = {"all": partial(Encoding, keys=0), "some": partial(Last, keys=4)}
    assert FusionChain(SPEC, fusions).keys_per_frame == 0
    fusions = {"some": partial(Encoding, keys=4), "all": partial(Last, keys=0)}
    assert FusionChain(SPEC, fusions).keys_per_frame == 0


@pytest.mark.parametrize(
    "before",
    [
        {"links": TubeletAggregation},
        {"keeps": partial(TubeletAggregation, mode="none")},
        {"encodes too": Encoding},
        {"add": Linear, "last": Last},
    ],
    ids=", ".join,
)
def test_a_fusion_that_encodes_candidates_is_the_first(before: CandidateFusionFactories) -> None:
    expected = f"fusion encodes must be the first.*; found it after {', '.join(before)}"
    with pytest.raises(ConfigError, match=expected):
        FusionChain(SPEC, {**before, "encodes": Encoding})
    FusionChain(SPEC, {"encodes": Encoding, "add": Linear, "last": Last})


def test_linked_candidates_are_no_frame_s_own() -> None:
    with pytest.raises(ConfigError, match=r"encodes, links.* linked .*Remove one of them"):
        FusionChain(SPEC, {"encodes": Encoding, "links": TubeletAggregation})
    FusionChain(SPEC, {"encodes": Encoding, "keeps": partial(TubeletAggregation, mode="none")})


def recall(
    chain: FusionChain,
    history: Sequence[Candidates],
    targets: Sequence[ReferenceTargets] | None = None,
    now: ReferenceTargets | None = None,
) -> State:
    clips = len(history[0].boxes)
    unknown = [None] * clips
    begun = chain.begin(clips, FRAMES)
    return chain.recall(begun, history, targets or [unknown] * len(history), now or unknown)


def test_each_fusion_recalls_from_what_those_before_it_make_of_the_history() -> None:
    torch.manual_seed(0)
    attention = partial(LongTermAttention, width=32, group_width=16, keys_per_frame=3)
    chain = FusionChain(SPEC, {"aggregation": TubeletAggregation, "attention": attention}).train()
    history = [candidates_of(torch.randn(2, 3, 5, 4, 2, 2), reference=1) for _ in range(2)]
    state = recall(chain, history)
    fusion = chain.members["attention"]
    assert state["attention.features"].shape == (2, 2, 3, 32)
    for number, past in enumerate(history):
        best = torch.stack(past.features).amax(dim=0)[:, :3].flatten(2)
        expected = fusion.fcs[0](best).relu()
        torch.testing.assert_close(state["attention.features"][:, number], expected)


def test_fusions_recall_from_what_the_first_has_encoded() -> None:
    extras = {"encodes.number": torch.tensor([[30.0], [40]])}
    history = [candidates_of(ones(), extras=extras)]
    for first in (Encoding, Remembering):
        chain = FusionChain(SPEC, {"encodes": first, "last": Last})
        state = recall(chain, history)
        assert state["last.last"].tolist() == [1 + 30, 1 + 40]
    assert state["encodes.last"].tolist() == [1 + 30, 1 + 40]


def test_boxes_follow_the_tracks_of_the_reference_frame_behind_linked_candidates() -> None:
    def target(left: float) -> Target:
        return Target(
            boxes=torch.tensor([[left, 0.0, left + 8, 8]]),
            labels=torch.tensor([0]),
            track_ids=torch.tensor([6]),
            iscrowd=torch.tensor([False]),
        )

    attention = partial(
        LongTermAttention, width=32, group_width=16, keys_per_frame=1, propagate="replace"
    )
    chain = FusionChain(SPEC, {"aggregation": TubeletAggregation, "attention": attention}).train()
    past = candidates_of(ones(length=3, count=1, clips=1), reference=1)  # at (0, 0, 8, 8)
    state = recall(chain, [past], [[target(0)]], [target(25)])
    assert state["attention.boxes"][0, 0].tolist() == [[25, 0, 33, 8]]


def test_attentions_of_a_chain_keep_a_state_each() -> None:
    torch.manual_seed(0)
    attention = partial(LongTermAttention, width=32, group_width=16, keys_per_frame=2)
    fusions = {
        "first": partial(attention, key_frame_interval=1, num_key_frames=2),
        "second": partial(attention, key_frame_interval=2, num_key_frames=3),
    }
    chain = FusionChain(SPEC, fusions).eval()
    state = chain.begin(1, FRAMES)
    alone = {name: fusion.begin(1, FRAMES) for name, fusion in chain.members.items()}
    for _ in range(4):
        candidates = candidates_of(torch.randn(1, 1, 5, 4, 2, 2))
        fused, state = chain(candidates, state)
        for name, fusion in chain.members.items():
            candidates, alone[name] = fusion(candidates, alone[name])
        torch.testing.assert_close(fused.features, candidates.features)
    for name, own in alone.items():
        for key, value in own.items():
            torch.testing.assert_close(state[f"{name}.{key}"], value)
    assert state["first.is_valid"].any(dim=2).tolist() == [[True, True]]
    assert state["second.is_valid"].any(dim=2).tolist() == [[True, True, False]]
