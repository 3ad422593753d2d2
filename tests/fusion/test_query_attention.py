from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny import random_frames, tiny_two_stage
from tiny_detr import tiny_detr
from vodet.encodings import Candidates, CandidateSpec
from vodet.errors import ConfigError
from vodet.fusion.query_attention import QueryAttention
from vodet.streaming import StreamingDetector
from vodet.structures import Window

SPEC = CandidateSpec(channels=3, resolution=2)


def lively(**options) -> QueryAttention:
    torch.manual_seed(0)
    small = {"width": 8, "heads": 2, "stages": (4, 2), "feedforward": 6, "dropout": 0.0}
    module = QueryAttention(SPEC, **(small | options))
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.5)
    return module.eval()


def frames_of(count: int, candidates: int = 5, lengths: list[int] | None = None) -> Candidates:
    """Candidates of single frames."""
    generator = torch.Generator().manual_seed(1)
    lengths = lengths or [candidates] * count
    return Candidates(
        features=(torch.randn(count, candidates, 3, 2, 2, generator=generator),),
        boxes=torch.rand(count, 1, candidates, 4, generator=generator),
        scores=torch.zeros(count, 1, candidates),
        is_valid=(torch.arange(candidates) < torch.tensor(lengths)[:, None]).unsqueeze(1),
        sizes=torch.tensor([[64, 64]]).expand(count, 2),
        reference=0,
        linked=False,
        extras={},
    )


def fused(module: QueryAttention, frames: Candidates, rows: list[list[int]], place: int) -> Tensor:
    """Fuse windows of frames, given by the numbers of their frames."""
    keys = module.encode_candidates(frames.best(module.keys_per_frame))
    own = [row[place] for row in rows]
    inputs = replace(
        frames,
        features=(frames.features[0][own],),
        boxes=frames.boxes[own],
        scores=frames.scores[own],
        is_valid=frames.is_valid[own],
        sizes=frames.sizes[own],
        extras={name: value[torch.tensor(rows)] for name, value in keys.items()},
    )
    found, state = module(inputs, {})
    assert state == {}
    return found.features[0][..., 0, 0]


def attended(attention: nn.Module, x: Tensor, keys: Tensor) -> Tensor:
    """Multi-head attention of each query by itself."""
    rows = []
    for query in x:
        heads = []
        for part in range(attention.heads):
            size = len(query) // attention.heads
            own = slice(part * size, (part + 1) * size)
            q = attention.query(query)[own]
            k, v = attention.key(keys)[:, own], attention.value(keys)[:, own]
            weights = torch.stack([(q * key).sum() / size**0.5 for key in k]).softmax(dim=0)
            heads.append(sum(weight * value for weight, value in zip(weights, v, strict=True)))
        rows.append(attention.out(torch.cat(heads)))
    return torch.stack(rows)


@torch.no_grad()
def test_it_agrees_with_a_slow_computation_of_its_formula() -> None:
    module, frames = lively(), frames_of(3, lengths=[5, 2, 3])
    found = fused(module, frames, [[2, 0, 1]], 1)
    flat = frames.features[0].flatten(2)
    x = module.embedding(flat[0])
    for layer, count in zip(module.layers, (4, 2), strict=True):
        best = [min(count, length) for length in (3, 5, 2)]
        keys = torch.cat([flat[f, :n] for f, n in zip((2, 0, 1), best, strict=True)])
        keys = module.embedding(keys)
        norms = [(norm.weight, norm.bias) for norm in layer.norms]
        x = F.layer_norm(x + attended(layer.self_attention, x, x), (8,), *norms[0])
        x = F.layer_norm(x + attended(layer.attention, x, keys), (8,), *norms[1])
        first, _, _, second = layer.feedforward
        x = F.layer_norm(x + second(first(x).relu()), (8,), *norms[2])
    torch.testing.assert_close(found[0], x, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_order_and_repetition_of_frames_do_not_matter() -> None:
    module, frames = lively(), frames_of(3)
    expected = fused(module, frames, [[0, 1, 2]], 0)
    torch.testing.assert_close(fused(module, frames, [[0, 2, 1]], 0), expected)
    torch.testing.assert_close(fused(module, frames, [[0, 1, 2, 0, 1, 2]], 0), expected)


@torch.no_grad()
def test_order_of_the_candidates_does_not_matter_where_all_are_keys() -> None:
    module, frames = lively(stages=(9, 9)), frames_of(2)
    order = torch.tensor([3, 1, 4, 0, 2])
    permuted = replace(frames, features=(frames.features[0][:, order],))
    expected = fused(module, frames, [[0, 1]], 0)
    found = fused(module, permuted, [[0, 1]], 0)
    torch.testing.assert_close(found, expected[:, order])


@torch.no_grad()
def test_windows_of_a_batch_do_not_meet() -> None:
    module, frames = lively(), frames_of(4, lengths=[5, 0, 1, 4])
    rows = [[0, 1], [2, 3], [1, 1]]
    together = fused(module, frames, rows, 0)
    for item, row in enumerate(rows):
        torch.testing.assert_close(together[item], fused(module, frames, [row], 0)[0])


@pytest.mark.parametrize(
    "options",
    [{"width": 9}, {"heads": 0}, {"stages": ()}, {"stages": (4, 0)}, {"dropout": 1.0}],
)
def test_numbers_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match="QueryAttention: expected positive numbers"):
        lively(**options)


@torch.inference_mode()
@pytest.mark.parametrize("build", [tiny_two_stage, tiny_detr])
def test_support_frames_matter(build) -> None:
    detector = build("query_attention", Window(past=1))
    frames = random_frames(2)
    frames[0] = 0
    pair, alone = (
        StreamingDetector(detector).push(part)[-1].detections for part in (frames, frames[1:])
    )
    assert (pair["scores"][:10] - alone["scores"][:10]).abs().max() > 1e-3
