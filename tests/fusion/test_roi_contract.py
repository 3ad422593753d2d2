"""What every candidate fusion must do, for each YAML of conf/model/head/fusion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tiny import candidate_fusion_names, candidate_fusions_of
from vodet.encodings import (
    Candidates,
    CandidateSpec,
    EncodedFrames,
    FeatureMaps,
    State,
    prefixed,
)
from vodet.fusion_chain import FusionChain
from vodet.stages import CandidateFusion

SPECS = {"RoIs": CandidateSpec(channels=6, resolution=3), "cells": CandidateSpec(6, branches=2)}
NAMES = [
    f"{name} of {kind}" for name in candidate_fusion_names() if name != "none" for kind in SPECS
]
FRAMES = EncodedFrames(FeatureMaps((torch.zeros(1, 6, 16, 16),)), torch.tensor([[64, 64]]), {})


def build(name: str) -> FusionChain:
    torch.manual_seed(0)
    name, _, kind = name.partition(" of ")
    chain = FusionChain(SPECS[kind], candidate_fusions_of(name))
    chain.given = SPECS[kind]
    assert all(isinstance(fusion, CandidateFusion) for fusion in chain.members.values())
    for weight in chain.parameters():
        nn.init.normal_(weight, std=0.3)
    return chain


def candidates_of(
    chain: FusionChain, windows: int, length: int, count: int = 10, seed: int = 0
) -> Candidates:
    """Candidates as a head hands them over, with what the chain has encoded of each frame."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(windows, *shape, generator=generator)

    corner, sides = 40 * random(length, count, 2), 5 + 20 * random(length, count, 2)
    spec = chain.given
    features = random(length, count, spec.channels, spec.resolution, spec.resolution) - 0.3
    candidates = Candidates(
        features=features.unbind(1),
        boxes=torch.cat((corner, corner + sides), dim=-1),
        scores=random(length, count).sort(descending=True).values,
        is_valid=torch.ones(windows, length, count, dtype=torch.bool),
        sizes=torch.full((windows, 2), 64),
        reference=length // 2,
        linked=chain.needs_links,
        extras={},
        confidences=random(length, count, 2) if spec.branches == 2 else None,
    )
    encoded = [
        chain.encode_candidates(replace(candidates, reference=place).current)
        for place in range(length)
    ]
    extras = {name: torch.stack([own[name] for own in encoded], dim=1) for name in encoded[0]}
    candidates = replace(candidates, extras=extras)
    return candidates if chain.needs_links or chain.joins_frames else candidates.current


def state_of(chain: FusionChain, windows: int) -> State:
    """A state with something in it, where the chain remembers: of a history or of four frames."""
    state = chain.begin(windows, FRAMES)
    if not chain.remembers:
        return state
    frames = [candidates_of(chain, windows, 1, seed=seed) for seed in range(1, 5)]
    if chain.training:
        unknown = [None] * windows
        state = chain.recall(state, frames[:2], [unknown] * 2, unknown)
        return {name: value.detach() for name, value in state.items()}
    for frame in frames:
        _, state = chain(frame, state)
    return {name: value.detach() for name, value in state.items()}


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_gives_candidates_of_the_reference_frame_of_its_spec(name: str, length: int) -> None:
    chain = build(name)
    candidates = candidates_of(chain, 2, length)
    fused, _ = chain(candidates, chain.begin(2, FRAMES))
    (features,) = fused.features
    spec = chain.spec
    assert features.shape == (2, 10, spec.channels, spec.resolution, spec.resolution)
    assert torch.isfinite(features).all()
    assert torch.equal(fused.boxes, candidates.current.boxes)
    assert torch.equal(fused.scores, candidates.current.scores)
    assert torch.equal(fused.is_valid, candidates.current.is_valid)
    assert fused.reference == 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_no_memory_and_no_candidate_are_well(name: str, training: bool) -> None:
    chain = build(name).train(training)
    for count in (10, 0):
        state = chain.begin(2, FRAMES)
        if training and chain.remembers:  # of a frame without any candidate
            past = candidates_of(chain, 2, 1, seed=1)
            past = replace(past, is_valid=torch.zeros_like(past.is_valid))
            state = chain.recall(state, [past], [[None] * 2], [None] * 2)
        fused, _ = chain(candidates_of(chain, 2, 3, count), state)
        (features,) = fused.features
        assert features.shape[1] == count
        features.sum().backward() if list(chain.parameters()) else None
        assert torch.isfinite(features).all()
        for parameter_name, weight in chain.named_parameters():
            assert weight.grad is not None, parameter_name
            assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_parameter(name: str) -> None:
    chain = build(name).train()
    state = chain.begin(2, FRAMES)
    if chain.remembers:
        history = [candidates_of(chain, 2, 1, seed=seed) for seed in (1, 2)]
        unknown = [None] * 2
        state = chain.recall(state, history, [unknown] * 2, unknown)
    fused, _ = chain(candidates_of(chain, 2, 3), state)
    if not list(chain.parameters()):
        return
    fused.features[0].square().sum().backward()
    for parameter_name, weight in chain.named_parameters():
        if parameter_name.endswith("key.bias"):  # softmax does not see what all logits share
            continue
        assert weight.grad is not None, parameter_name
        assert weight.grad.abs().sum() > 0, parameter_name


def item_of(candidates: Candidates, item: int) -> Candidates:
    one = slice(item, item + 1)
    return replace(
        candidates,
        features=tuple(frame[one] for frame in candidates.features),
        boxes=candidates.boxes[one],
        scores=candidates.scores[one],
        is_valid=candidates.is_valid[one],
        sizes=candidates.sizes[one],
        confidences=candidates.factors[one],
        extras={name: extra[one] for name, extra in candidates.extras.items()},
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_batch_items_do_not_influence_each_other(name: str, training: bool) -> None:
    chain = build(name).train(training)
    candidates, state = candidates_of(chain, 3, 3), dict(state_of(chain, 3))
    begun = chain.begin(3, FRAMES)
    for key, value in begun.items():  # the last video begins
        state[key] = state[key].clone()
        state[key][2] = value[2] if value[2].shape == state[key][2].shape else 0
    together, after = chain(candidates, state)
    for item in range(3):
        own = {key: value[item : item + 1] for key, value in state.items()}
        alone, own_after = chain(item_of(candidates, item), own)
        torch.testing.assert_close(
            alone.features[0][0], together.features[0][item], rtol=1e-4, atol=1e-4
        )
        for key, value in own_after.items():
            torch.testing.assert_close(value[0], after[key][item], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_holds_nothing_after_a_step(name: str) -> None:
    chain = build(name).eval()
    state = state_of(chain, 2)
    before = {module: set(vars(module)) for module in chain.modules()}
    weights = {key: value.clone() for key, value in chain.state_dict().items()}
    kept = {key: value.clone() for key, value in state.items()}
    _, after = chain(candidates_of(chain, 2, 3), state)
    assert {module: set(vars(module)) for module in chain.modules()} == before
    for key, value in chain.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=0)
    assert after.keys() == state.keys()
    for key, value in state.items():  # a value, which nobody changes
        assert torch.equal(value, kept[key])
        assert value.shape == after[key].shape


@pytest.mark.parametrize("name", NAMES)
def test_the_state_that_begins_is_of_as_many_videos_as_asked_for(name: str) -> None:
    chain = build(name)
    state = chain.begin(3, FRAMES)
    assert bool(state) == chain.remembers
    assert {len(value) for value in state.values()} <= {3}
    members = [fusion.begin(3, FRAMES) for fusion in chain.members.values()]
    named = [prefixed(n, own) for n, own in zip(chain.members, members, strict=True)]
    assert state.keys() == {key for own in named for key in own}
