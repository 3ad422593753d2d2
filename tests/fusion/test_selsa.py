from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tiny import random_frames, tiny_two_stage
from vodet.encodings import Candidates, CandidateSpec
from vodet.errors import ConfigError
from vodet.fusion.selsa import SELSA
from vodet.streaming import StreamingDetector
from vodet.structures import Window

SPEC = CandidateSpec(channels=3, resolution=2)


def lively(**options) -> SELSA:
    torch.manual_seed(0)
    module = SELSA(SPEC, **({"width": 8, "heads": 2, "keys_per_frame": 4} | options))
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.5)
    return module.eval()


def frames_of(count: int, candidates: int = 5, lengths: list[int] | None = None) -> Candidates:
    """Candidates of single frames."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(count, candidates, 3, 2, 2, generator=generator)
    lengths = lengths or [candidates] * count
    return Candidates(
        features=(features,),
        boxes=torch.rand(count, 1, candidates, 4, generator=generator),
        scores=torch.zeros(count, 1, candidates),
        is_valid=(torch.arange(candidates) < torch.tensor(lengths)[:, None]).unsqueeze(1),
        sizes=torch.tensor([[64, 64]]).expand(count, 2),
        reference=0,
        linked=False,
        extras={},
    )


def windows_of(module: SELSA, frames: Candidates, rows: list[list[int]], reference: int):
    """Candidates of the reference frames, with what was encoded of all frames of the windows."""
    keys = module.encode_candidates(frames.best(module.keys_per_frame))
    own = [row[reference] for row in rows]
    return replace(
        frames,
        features=(frames.features[0][own],),
        boxes=frames.boxes[own],
        scores=frames.scores[own],
        is_valid=frames.is_valid[own],
        sizes=frames.sizes[own],
        extras={name: value[torch.tensor(rows)] for name, value in keys.items()},
    )


def fused(module: SELSA, frames: Candidates, rows: list[list[int]], reference: int = 0) -> Tensor:
    found, state = module(windows_of(module, frames, rows, reference), {})
    assert state == {}
    assert len(found.features) == 1
    return found.features[0][..., 0, 0]


def by_torchs_attention(module: SELSA, x: Tensor, k: Tensor) -> Tensor:
    """The formula of one window, with the attention that torch has."""
    for fc, own in zip(module.fcs, module.attentions, strict=True):
        width = own.query.out_features
        attention = nn.MultiheadAttention(width, own.heads, batch_first=True)
        attention.load_state_dict(
            {
                "in_proj_weight": torch.cat([m.weight for m in (own.query, own.key, own.value)]),
                "in_proj_bias": torch.cat([m.bias for m in (own.query, own.key, own.value)]),
                "out_proj.weight": own.out.weight,
                "out_proj.bias": own.out.bias,
            }
        )
        x, k = fc(x), fc(k)
        added, _ = attention(x[None], k[None], k[None])
        x, k = (x + added[0]).relu(), k.relu()
    return x


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_agrees_with_a_slow_computation_of_its_formula(layers: int) -> None:
    module, frames = lively(layers=layers), frames_of(3, lengths=[5, 2, 3])
    found = fused(module, frames, [[2, 0, 1]], reference=1)
    flat = frames.features[0].flatten(2)
    keys = torch.cat([flat[2, :3], flat[0, :4], flat[1, :2]])  # the best four that are there
    expected = by_torchs_attention(module, flat[0], keys)
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_order_and_repetition_of_frames_do_not_matter() -> None:
    module, frames = lively(), frames_of(3)
    expected = fused(module, frames, [[0, 1, 2]])
    torch.testing.assert_close(fused(module, frames, [[0, 2, 1]]), expected)
    torch.testing.assert_close(fused(module, frames, [[0, 1, 2, 0, 1, 2]]), expected)


@torch.no_grad()
def test_windows_of_a_batch_do_not_meet() -> None:
    module, frames = lively(), frames_of(4, lengths=[5, 0, 1, 4])
    rows = [[0, 1], [2, 3], [1, 1]]
    together = fused(module, frames, rows)
    for item, row in enumerate(rows):
        torch.testing.assert_close(together[item], fused(module, frames, [row])[0])


@torch.no_grad()
def test_without_keys_only_the_layers_are_left() -> None:
    module, frames = lively(), frames_of(2, lengths=[0, 0])
    x = frames.features[0][0].flatten(1)
    for fc in module.fcs:
        x = fc(x).relu()
    torch.testing.assert_close(fused(module, frames, [[0, 1]])[0], x)


def test_gradients_reach_every_weight_also_from_empty_frames() -> None:
    for lengths in ([5, 3], [0, 0]):
        module, frames = lively().train(), frames_of(2, lengths=lengths)
        fused(module, frames, [[0, 1]]).square().sum().backward()
        for name, weight in module.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name


@pytest.mark.parametrize(
    "options", [{"width": 9}, {"heads": 0}, {"layers": 0}, {"keys_per_frame": 0}]
)
def test_numbers_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="SELSA: expected positive numbers"):
        lively(**options)


@torch.inference_mode()
def test_boxes_are_regressed_from_the_attended_features() -> None:
    factory = partial(SELSA, width=8, heads=2, keys_per_frame=4)
    detector = tiny_two_stage({"selsa": factory}, Window(past=1), refine="boxes")
    frames = random_frames(2)
    found = [StreamingDetector(detector).push(part)[-1].detections for part in (frames, frames[1:])]
    boxes = [set(map(tuple, own["boxes"].tolist())) for own in found]
    assert len(boxes[0] - boxes[1]) > 3  # the frame before has moved them
    assert detector.head.st_head is None


@torch.inference_mode()
def test_a_stream_pools_each_frame_once() -> None:
    factory = partial(SELSA, width=8, heads=2, keys_per_frame=4)
    detector = tiny_two_stage({"selsa": factory}, Window(past=2), refine="boxes")
    pooled = []
    pooler = detector.head.pooler
    detector.head.pooler = type(
        "Counting",
        (),
        {"of_frames": lambda _, *a: (pooled.append(len(a[2])), pooler.of_frames(*a))[1]},
    )()
    stream = StreamingDetector(detector)
    for frame in random_frames(6):
        stream.push(frame)
    assert pooled == [1] * 6
