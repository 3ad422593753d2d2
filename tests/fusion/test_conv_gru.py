from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tiny import fusion_of, random_frames, tiny_detector
from vodet.encodings import EncodedFrames, FeatureMaps, FeatureSpec, WindowBatch
from vodet.errors import ConfigError
from vodet.fusion.conv_gru import ConvGRU, ConvGRUCell
from vodet.fusion.none import NoFusion
from vodet.streaming import StreamingDetector
from vodet.structures import Window

SPEC = FeatureSpec(channels=(6, 4), strides=(4, 8))


def lively(**options) -> ConvGRU:
    torch.manual_seed(0)
    module = ConvGRU(SPEC, **options)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return module.eval()


def video(frames: int, videos: int = 1, scale: float = 1.0, seed: int = 0) -> EncodedFrames:
    generator = torch.Generator().manual_seed(seed)
    count = frames * videos
    levels = tuple(
        scale * torch.randn(count, c, 16 // s, 32 // s, generator=generator)
        for c, s in zip(SPEC.channels, SPEC.strides, strict=True)
    )
    return EncodedFrames(FeatureMaps(levels), torch.tensor([[16, 32]]).expand(count, 2), {})


def at(frames: EncodedFrames, *rows: int) -> WindowBatch:
    return WindowBatch.of(frames, torch.tensor(rows).unsqueeze(1), 0)


def unrolled(module: ConvGRU, frames: EncodedFrames) -> list[FeatureMaps]:
    state, fused = module.begin(1, frames), []
    for row in range(len(frames)):
        maps, state = module(at(frames, row), state)
        fused.append(maps)
    return fused


def test_a_cell_of_one_place_by_hand():
    cell = ConvGRUCell(channels=1, hidden=1)
    for layer in (cell.gates, cell.candidate):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():  # weights of x and h in the middle of each kernel
        cell.gates.weight[:, :, 1, 1] = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
        cell.candidate.weight[0, :, 1, 1] = torch.tensor([0.3, 4.0])
        cell.out.weight.fill_(2)
        cell.out.bias.fill_(0.25)
    x, h = torch.tensor(0.7), torch.tensor(-0.2)
    z, r = (1.0 * x + 2.0 * h).sigmoid(), (0.5 * x - 1.0 * h).sigmoid()
    n = (0.3 * x + 4.0 * (r * h)).tanh()
    expected = (1 - z) * h + z * n
    found, hidden = cell(x.view(1, 1, 1, 1), h.view(1, 1, 1, 1))
    torch.testing.assert_close(hidden.flatten()[0], expected)
    torch.testing.assert_close(found.flatten()[0], x + 2 * expected + 0.25)


def test_a_cell_agrees_with_its_formula_on_maps():
    cell = ConvGRUCell(channels=3, hidden=2)
    for weight in cell.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    x, h = torch.randn(2, 3, 5, 4), torch.randn(2, 2, 5, 4)

    def conv(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        columns = torch.nn.functional.unfold(inputs, 3, padding=1)
        return (weight.flatten(1) @ columns + bias[:, None]).unflatten(2, (5, 4))

    both = torch.cat((x, h), dim=1)
    z = conv(both, cell.gates.weight[:2], cell.gates.bias[:2]).sigmoid()
    r = conv(both, cell.gates.weight[2:], cell.gates.bias[2:]).sigmoid()
    n = conv(torch.cat((x, r * h), dim=1), cell.candidate.weight, cell.candidate.bias).tanh()
    _, found = cell(x, h)
    torch.testing.assert_close(found, (1 - z) * h + z * n)


@torch.inference_mode()
def test_at_first_it_is_the_single_frame_detector():
    frames = random_frames(4)
    found = []
    for fusion in (fusion_of("conv_gru"), NoFusion):
        detector = tiny_detector(NoFusion, Window())
        torch.manual_seed(0)
        fused = fusion(detector.pyramid.spec)
        detector.fusion = fused.eval()
        found.append(StreamingDetector(detector).push(frames))
    for a, b in zip(*found, strict=True):
        for key in ("boxes", "scores", "labels"):
            torch.testing.assert_close(a.detections[key], b.detections[key])


@torch.inference_mode()
def test_the_past_matters_to_any_depth():
    module, frames = lively(), video(6)
    late = unrolled(module, frames)[-1]
    other = EncodedFrames(
        frames.maps.map(lambda level: torch.cat((level[:1] + 1, level[1:]))), frames.sizes, {}
    )
    for a, b in zip(late.levels, unrolled(module, other)[-1].levels, strict=True):
        assert (a - b).abs().max() > 1e-5


@torch.inference_mode()
def test_two_videos_in_a_batch_are_each_alone():
    module, one, two = lively(), video(3, seed=1), video(3, seed=2)
    both = EncodedFrames(
        FeatureMaps(tuple(map(torch.cat, zip(one.maps.levels, two.maps.levels, strict=True)))),
        torch.cat((one.sizes, two.sizes)),
        {},
    )
    state = module.begin(2, both)
    for row in range(3):
        maps, state = module(at(both, row, row + 3), state)
    for item, alone in enumerate((one, two)):
        expected = unrolled(module, alone)[-1]
        for a, b in zip(maps.levels, expected.levels, strict=True):
            torch.testing.assert_close(a[item], b[0])


@torch.inference_mode()
def test_the_memory_stays_bounded_on_noise():
    module, frames = lively(), video(50, scale=100)
    state = module.begin(1, frames)
    shapes = {name: tensor.shape for name, tensor in state.items()}
    assert shapes == {"hidden_0": (1, 3, 4, 8), "hidden_1": (1, 2, 2, 4)}
    for step in range(1000):
        _, state = module(at(frames, step % 50), state)
        assert {name: tensor.shape for name, tensor in state.items()} == shapes
        assert all(tensor.abs().max() <= 1 for tensor in state.values())


def test_levels_without_a_cell_pass():
    module, frames = lively(strides=[8], hidden=5), video(1)
    state = module.begin(1, frames)
    assert {name: tensor.shape for name, tensor in state.items()} == {"hidden_1": (1, 5, 2, 4)}
    maps, _ = module(at(frames, 0), state)
    assert torch.equal(maps.levels[0], frames.maps.levels[0])
    assert not torch.equal(maps.levels[1], frames.maps.levels[1])
    with pytest.raises(ConfigError, match=r"strides .*\(4, 8\); found \[16\]"):
        ConvGRU(SPEC, strides=[4, 16])


def test_the_memory_is_float32_under_autocast():
    module, frames = lively(), video(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, state = module(at(frames, 0), module.begin(1, frames))
        _, state = module(at(frames, 1), state)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_gradients_reach_back_through_all_frames():
    module, frames = lively().train(), video(5)
    first = frames.maps.map(lambda level: level.requires_grad_())
    sum(level.sum() for level in unrolled(module, frames)[-1].levels).backward()
    for level in first.levels:
        assert level.grad[0].abs().sum() > 0


@pytest.mark.parametrize("hidden", [0, -1])
def test_a_memory_without_channels_is_refused(hidden: int) -> None:
    with pytest.raises(ConfigError, match=f"ConvGRU: hidden must be at least 1, found {hidden}"):
        ConvGRU(SPEC, hidden)
