from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from recipe import REFERENCE, recipe_weight
from vodet.fusion.relation import RelationAttention, geometry_embedding, relative_geometry


def load(name: str) -> dict[str, Tensor]:
    with np.load(REFERENCE / f"{name}.npz") as file:
        return {key: torch.as_tensor(file[key]) for key in file.files}


def reference_attention(number: int, *, geometry: bool) -> RelationAttention:
    recipe = json.loads((REFERENCE / "long_term_weights_recipe.json").read_text())
    module = RelationAttention(geometry=geometry)
    names = {"query": "Wqs", "key": "Wks", "value": "Wvs", "geometry": "Wgs"}
    for name, weight in module.named_parameters():
        layer, kind = name.split(".")
        entry = recipe["tensors"][f"{names[layer]}.{number}.{kind}"]
        values = recipe_weight(entry["shape"], entry["seed"], entry["scale"])
        assert values.flatten()[:4].tolist() == entry["first4"]
        weight.data = values.view(weight.shape)
    return module


def all_keys(count: int, clips: int = 1) -> Tensor:
    return torch.ones(clips, count, dtype=torch.bool)


def test_geometry_agrees_with_the_reference():
    values = load("attention_geometry")
    geometry = relative_geometry(values["rois1"], values["rois2"])
    torch.testing.assert_close(geometry, values["position_matrix"], rtol=1e-5, atol=1e-5)
    embedding = geometry_embedding(values["position_matrix"], 64)
    torch.testing.assert_close(embedding, values["position_embedding"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("name", "geometry", "tolerance"), [("geo", True, 1e-3), ("nogeo", False, 1e-5)]
)
def test_attention_agrees_with_the_reference(number, name, geometry, tolerance):
    values = load("attention_block")
    module = reference_attention(number, geometry=geometry)
    relative = relative_geometry(values["rois"], values["ref_rois"])
    embedding = geometry_embedding(relative, 64)[None] if geometry else None
    bias = module.bias(embedding, all_keys(5))
    x, keys = values["roi_feat"][None], values["ref_feat"][None]
    for found, output in zip(
        module(x, module.project(keys), bias, 6), ("out", "mean_weight"), strict=True
    ):
        expected = values[f"{output}_{name}_idx{number}"]
        error = (found[0] - expected).abs().max() / expected.abs().max()
        assert error < tolerance


def test_geometry_by_hand():
    box, key = torch.tensor([[0.0, 0, 9, 19]]), torch.tensor([[10.0, 0, 29, 9]])  # 10x20 and 20x10
    expected = [math.log(1.5 + 1e-3), math.log(0.25 + 1e-3), math.log(0.5), math.log(2)]
    torch.testing.assert_close(relative_geometry(box, key), torch.tensor([[expected]]))
    expected = [math.log(1e-3), math.log(1e-3), 0, 0]
    torch.testing.assert_close(relative_geometry(box, box), torch.tensor([[expected]]))


def test_embedding_by_hand():
    geometry = torch.tensor([[[0.01, -0.02, 0.5, 0.0]]])
    expected = [
        f(100 * number / wavelength)
        for number in (0.01, -0.02, 0.5, 0.0)
        for f in (math.sin, math.cos)
        for wavelength in (1.0, math.sqrt(1000))
    ]
    found = geometry_embedding(geometry, 16)
    torch.testing.assert_close(found, torch.tensor([[expected]]), rtol=1e-5, atol=1e-5)


def slow_attention(module, x, keys, embedding) -> tuple[Tensor, Tensor]:
    """For one clip, one RoI and one group at a time: the weighted sum of keys, then its own map."""
    groups, width = module.groups, x.shape[1]
    size = width // groups
    out, mean_weights = torch.zeros_like(x), torch.zeros(len(x), len(keys))
    for n in range(len(x)):
        for g in range(groups):
            rows = slice(g * size, (g + 1) * size)
            query = module.query.weight[rows] @ x[n] + module.query.bias[rows]
            logits = torch.zeros(len(keys))
            for m in range(len(keys)):
                key = module.key.weight[rows] @ keys[m] + module.key.bias[rows]
                logits[m] = query @ key / math.sqrt(size)
                if embedding is not None:
                    w_g, b_g = module.geometry.weight[g], module.geometry.bias[g]
                    logits[m] += torch.log((w_g @ embedding[n, m] + b_g).clamp(min=0) + 1e-6)
            weights = logits.exp() / logits.exp().sum()
            gathered = sum(w * key for w, key in zip(weights, keys, strict=True))
            out[n, rows] = module.value.weight[rows] @ gathered + module.value.bias[rows]
            mean_weights[n] += weights / groups
    return out, mean_weights


def lively(*, geometry: bool) -> RelationAttention:
    module = RelationAttention(32, 4, geometry=geometry)
    generator = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=generator)
    return module


def inputs(clips: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, keys = (
        torch.randn(clips, 5, 32, generator=generator),
        torch.randn(clips, 7, 32, generator=generator),
    )
    return x, keys, torch.randn(clips, 5, 7, 8, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("geometry", [True, False])
def test_attention_agrees_with_a_slow_implementation(geometry):
    module, (x, keys, embedding) = lively(geometry=geometry), inputs()
    bias = module.bias(embedding if geometry else None, all_keys(7, clips=2))
    found, weights = module(x, module.project(keys), bias, x.shape[1])
    for clip in range(2):
        own = embedding[clip] if geometry else None
        expected, expected_weights = slow_attention(module, x[clip], keys[clip], own)
        torch.testing.assert_close(found[clip], expected)
        torch.testing.assert_close(weights[clip], expected_weights)


@torch.no_grad()
@pytest.mark.parametrize("geometry", [True, False])
def test_padding_is_no_key(geometry):
    module, (x, keys, embedding) = lively(geometry=geometry), inputs()
    embedding = embedding if geometry else None
    is_key = torch.tensor([[True] * 4 + [False] * 3, [True] * 7])
    bias = module.bias(embedding, is_key)
    found, weights = module(x, module.project(keys), bias, x.shape[1])
    own = embedding[:1, :, :4] if geometry else None
    bias = module.bias(own, is_key[:1, :4])
    torch.testing.assert_close(found[:1], module(x[:1], module.project(keys[:1, :4]), bias)[0])
    assert not weights[0, :, 4:].any()
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 5))


def test_the_bias_is_contiguous():
    module, boxes = RelationAttention(width=32, groups=2), torch.rand(1, 6, 4)
    embedding = geometry_embedding(relative_geometry(boxes[:, :3], boxes), 16)
    bias = module.bias(embedding, all_keys(6))
    assert bias.shape == (1, 2, 3, 6)
    assert bias.is_contiguous()


def test_weights_start_small_and_biases_at_zero():
    module = RelationAttention(128, 4)
    for layer in (module.query, module.key):  # Kaiming uniform with a = 1
        assert 0.98 * math.sqrt(3 / 128) < layer.weight.abs().max() <= math.sqrt(3 / 128)
    for layer in (module.value, module.geometry):
        assert 0.007 < layer.weight.std() < 0.013
    assert all(not p.any() for name, p in module.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("geometry", [True, False])
def test_every_parameter_gets_a_finite_gradient(geometry):
    module, (x, keys, embedding) = lively(geometry=geometry), inputs()
    is_key = torch.tensor([[True] + [False] * 6, [True] * 7])
    bias = module.bias(embedding if geometry else None, is_key)
    module(x, module.project(keys), bias)[0].square().sum().backward()
    for name, weight in module.named_parameters():
        assert weight.grad.isfinite().all()
        assert weight.grad.any() or name == "key.bias"  # which moves all logits of a RoI alike
