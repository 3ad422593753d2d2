"""What every map fusion must do, for each YAML of conf/model/fusion."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tiny import fusion_names, fusion_of
from vodet.encodings import EncodedFrames, FeatureMaps, FeatureSpec, State, WindowBatch
from vodet.stages import MapFusion, PlainMapFusion

SPEC = FeatureSpec(channels=(16, 24, 16), strides=(4, 8, 8))  # levels may have the same stride


def build(name: str) -> MapFusion:
    torch.manual_seed(0)
    built: nn.Module = fusion_of(name)(SPEC)
    fusion = built if isinstance(built, MapFusion) else PlainMapFusion(built)
    for weight in fusion.parameters():
        nn.init.normal_(weight, std=0.3)
    return fusion


def window(fusion: MapFusion, clips: int, length: int, seed: int = 0) -> WindowBatch:
    """Windows of clips, with the reference frame in the middle."""
    generator = torch.Generator().manual_seed(seed)
    count = clips * length
    maps = FeatureMaps(
        tuple(
            torch.randn(count, channels, 48 // stride, 32 // stride, generator=generator)
            for channels, stride in zip(SPEC.channels, SPEC.strides, strict=True)
        )
    )
    pixels = torch.randint(0, 256, (count, 3, 48, 32), dtype=torch.uint8, generator=generator)
    sizes = torch.tensor([[48, 32]]).expand(count, 2)
    frames = EncodedFrames(maps, sizes, fusion.encode(pixels, sizes, maps))
    return WindowBatch.of_clips(frames, length, length // 2)


def fuse(fusion: MapFusion, *windows: WindowBatch) -> tuple[FeatureMaps, State]:
    """Fuse windows of the same videos, one after the other; what the last of them give."""
    state = fusion.begin(len(windows[0]), windows[0].frames)
    for some in windows:
        maps, state = fusion(some, state)
    return maps, state


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("name", fusion_names())
def test_keeps_levels_channels_and_grid(name: str, length: int) -> None:
    fusion = build(name)
    windows = window(fusion, 2, length)
    fused, _ = fuse(fusion, windows)
    expected = [level[:, 0].shape for level in windows.maps.levels]
    assert [level.shape for level in fused.levels] == expected
    assert all(torch.isfinite(level).all() for level in fused.levels)


@pytest.mark.parametrize("name", fusion_names())
def test_gradient_reaches_every_parameter(name: str) -> None:
    fusion = build(name)
    fused, _ = fuse(fusion, window(fusion, 2, 3), window(fusion, 2, 3, seed=1))
    if not list(fusion.parameters()):
        return
    sum(level.square().sum() for level in fused.levels).backward()
    for parameter_name, weight in fusion.named_parameters():
        assert weight.grad is not None, parameter_name
        assert weight.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", fusion_names())
def test_batch_items_do_not_influence_each_other(name: str) -> None:
    fusion = build(name).eval()
    windows = [window(fusion, 3, 3, seed) for seed in range(2)]
    together, state = fuse(fusion, *windows)
    for item in range(3):
        own = [WindowBatch.of(w.frames, w.index[item : item + 1], w.reference) for w in windows]
        alone, own_state = fuse(fusion, *own)
        for a, b in zip(alone.levels, together.levels, strict=True):
            torch.testing.assert_close(a[0], b[item], rtol=1e-5, atol=1e-5)
        for key, value in own_state.items():
            torch.testing.assert_close(value[0], state[key][item], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", fusion_names())
def test_holds_nothing_after_a_step(name: str) -> None:
    fusion = build(name).eval()
    before = {module: set(vars(module)) for module in fusion.modules()}
    weights = {key: value.clone() for key, value in fusion.state_dict().items()}
    windows = window(fusion, 2, 3)
    _, state = fuse(fusion, windows)
    kept = {key: value.clone() for key, value in state.items()}
    _, after = fusion(windows, state)
    assert after.keys() == state.keys()
    for key, value in state.items():  # a value, into which nobody writes
        assert torch.equal(value, kept[key])
        assert value.shape == after[key].shape
    assert {module: set(vars(module)) for module in fusion.modules()} == before
    for key, value in fusion.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=0)
