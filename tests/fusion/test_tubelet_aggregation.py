from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recipe import REFERENCE
from vodet.encodings import Candidates, CandidateSpec
from vodet.errors import ConfigError
from vodet.fusion.tubelet_aggregation import MODES, TubeletAggregation

SPEC = CandidateSpec(6, 3)


def candidates_of(features: torch.Tensor, reference: int) -> Candidates:
    """Candidates with boxes that differ in every frame, of features ``[B, T, N, C, s, s]``."""
    clips, frames, count = features.shape[:3]
    boxes = torch.arange(clips * frames * count * 4.0).view(clips, frames, count, 4)
    return Candidates(
        features=features.unbind(1),
        boxes=boxes,
        scores=-boxes[..., 0],
        is_valid=boxes[..., 0] != 16,
        sizes=torch.tensor([[90, 90]]).expand(clips, 2),
        reference=reference,
        linked=True,
        extras={},
    )


def random_features(frames: int) -> torch.Tensor:
    return torch.randn(2, frames, 4, 6, 3, 3, generator=torch.Generator().manual_seed(0))


def aggregate(mode: str, features: torch.Tensor, reference: int) -> torch.Tensor:
    candidates, _ = TubeletAggregation(SPEC, mode)(candidates_of(features, reference), {})
    return torch.stack(candidates.features, dim=1)


@pytest.mark.parametrize(("mode", "name"), [("max", "maxpool"), ("adaptive", "adaptive")])
def test_aggregation_agrees_with_the_reference(mode, name):
    with np.load(REFERENCE / "tubelet_window3_reference1.npz") as file:
        x, expected = torch.as_tensor(file["x"]), torch.as_tensor(file[f"out_{name}"])
    found = aggregate(mode, x.unsqueeze(0), 1)[0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reference", [0, 1, 2])
def test_adaptive_weighs_frames_by_their_similarity_in_each_cell(reference):
    features = random_features(3)
    expected = torch.empty(2, 1, 4, 6, 3, 3)
    for b, n, i, j in np.ndindex(2, 4, 3, 3):
        vectors = features[b, :, n, :, i, j].tolist()
        own, norms = vectors[reference], [math.hypot(*vector) for vector in vectors]
        cosines = [
            sum(a * c for a, c in zip(vector, own, strict=True)) / norm / norms[reference]
            for vector, norm in zip(vectors, norms, strict=True)
        ]
        total = sum(math.exp(cosine) for cosine in cosines)
        expected[b, 0, n, :, i, j] = sum(
            math.exp(cosine) / total * torch.tensor(vector)
            for cosine, vector in zip(cosines, vectors, strict=True)
        )
    torch.testing.assert_close(aggregate("adaptive", features, reference), expected)


def test_max_is_of_each_feature_over_the_frames():
    features = random_features(3)
    expected = features[:, 0].maximum(features[:, 1]).maximum(features[:, 2]).unsqueeze(1)
    assert torch.equal(aggregate("max", features, 1), expected)


def test_none_keeps_the_features_of_the_reference_frame():
    features = random_features(3)
    assert torch.equal(aggregate("none", features, 1), features[:, 1:2])
    assert torch.equal(aggregate("none", features, 2), features[:, 2:])


@pytest.mark.parametrize("mode", MODES)
def test_a_single_frame_stays_as_it_is(mode):
    features = random_features(1)
    torch.testing.assert_close(aggregate(mode, features, 0), features)


@pytest.mark.parametrize("mode", MODES)
def test_candidates_and_state_stay_but_for_the_features(mode):
    candidates, state = candidates_of(random_features(3), 1), {"number": torch.tensor([3, 0])}
    found, after = TubeletAggregation(SPEC, mode)(candidates, state)
    assert after is state
    assert torch.equal(found.boxes, candidates.boxes[:, 1:2])
    assert found.reference == 0
    assert torch.equal(found.scores, candidates.scores[:, 1:2])
    assert torch.equal(found.is_valid, candidates.is_valid[:, 1:2])
    assert found.is_valid.tolist() == [[[False, True, True, True]], [[True] * 4]]


@pytest.mark.parametrize(("mode", "joins"), [("max", True), ("adaptive", True), ("none", False)])
def test_support_frames_are_looked_at_but_by_none(mode, joins):
    module, features = TubeletAggregation(SPEC, mode), random_features(3)
    assert module.joins_frames == module.needs_links == joins
    assert module.spec == SPEC
    changed = features.clone()
    changed[:, 0] += 1
    is_same = torch.equal(aggregate(mode, features, 1), aggregate(mode, changed, 1))
    assert is_same != joins


@pytest.mark.parametrize("mode", MODES)
def test_candidates_that_are_all_zero_in_a_frame_have_finite_gradients(mode):
    features = random_features(2)
    features[0, 0, 0] = 0
    features[0, :, 1] = 0
    features.requires_grad_()
    aggregate(mode, features, 0).square().sum().backward()
    assert features.grad.isfinite().all()


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="mode must be one of max, adaptive, none; found 'mean'"):
        TubeletAggregation(SPEC, "mean")
