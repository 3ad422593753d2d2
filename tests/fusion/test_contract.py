"""What every map fusion must do, for each YAML of conf/model/fusion."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tiny import fusion_names, fusion_of
from vodet.encodings import FeatureMaps, FeatureSpec

SPEC = FeatureSpec(channels=(16, 24), strides=(4, 8))


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    fusion: nn.Module = fusion_of(name)(SPEC)
    for weight in fusion.parameters():
        nn.init.normal_(weight, std=0.3)
    return fusion


def window(clips: int, length: int, seed: int = 0) -> FeatureMaps:
    generator = torch.Generator().manual_seed(seed)
    return FeatureMaps(
        tuple(
            torch.randn(clips, length, channels, 48 // stride, 32 // stride, generator=generator)
            for channels, stride in zip(SPEC.channels, SPEC.strides, strict=True)
        )
    )


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("name", fusion_names())
def test_keeps_levels_channels_and_grid(name: str, length: int) -> None:
    maps = window(2, length)
    fused = build(name)(maps, length // 2)
    assert [level.shape for level in fused.levels] == [level[:, 0].shape for level in maps.levels]
    assert all(torch.isfinite(level).all() for level in fused.levels)


@pytest.mark.parametrize("name", fusion_names())
def test_gradient_reaches_every_parameter(name: str) -> None:
    fusion = build(name)
    fused = fusion(window(2, 3), 1)
    if not list(fusion.parameters()):
        return
    sum(level.square().sum() for level in fused.levels).backward()
    for parameter_name, weight in fusion.named_parameters():
        assert weight.grad is not None, parameter_name
        assert weight.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", fusion_names())
def test_batch_items_do_not_influence_each_other(name: str) -> None:
    fusion = build(name).eval()
    maps = window(3, 3)
    together = fusion(maps, 1)
    for item in range(3):
        alone = fusion(maps[item : item + 1], 1)
        for a, b in zip(alone.levels, together.levels, strict=True):
            torch.testing.assert_close(a[0], b[item], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", fusion_names())
def test_holds_nothing_after_a_step(name: str) -> None:
    fusion = build(name).eval()
    before = {module: set(vars(module)) for module in fusion.modules()}
    state = {key: value.clone() for key, value in fusion.state_dict().items()}
    fusion(window(2, 3), 1)
    assert {module: set(vars(module)) for module in fusion.modules()} == before
    for key, value in fusion.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)
