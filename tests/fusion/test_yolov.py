from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vodet.encodings import Candidates, CandidateSpec
from vodet.errors import ConfigError
from vodet.fusion.yolov import YOLOV, Aggregation

CELLS, SINGLE = CandidateSpec(12, branches=2), CandidateSpec(6)


def lively(spec: CandidateSpec = CELLS, **options) -> YOLOV:
    torch.manual_seed(0)
    module = YOLOV(spec, **({"width": 8, "heads": 2} | options))
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.4)
    return module.eval()


def frames_of(
    module: YOLOV, spec: CandidateSpec = CELLS, count: int = 3, candidates: int = 4
) -> list[Candidates]:
    """Candidates of single frames, similar in pairs, with what the module encodes."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.randn(2, spec.channels, generator=generator)
    found = []
    for _ in range(count):
        noise = 0.3 * torch.randn(1, candidates, spec.channels, generator=generator)
        features = kinds[torch.arange(candidates) % 2] + noise
        frame = Candidates(
            features=(features[..., None, None],),
            boxes=torch.rand(1, 1, candidates, 4, generator=generator),
            scores=torch.randn(1, 1, candidates, generator=generator),
            is_valid=torch.ones(1, 1, candidates, dtype=torch.bool),
            sizes=torch.tensor([[64, 64]]),
            reference=0,
            linked=False,
            extras={},
            confidences=torch.rand(1, 1, candidates, 2, generator=generator)
            if spec.branches == 2
            else None,
        )
        found.append(frame)
    return found


def fused(module: YOLOV, frames: list[Candidates], reference: int) -> Tensor:
    encoded = [module.encode_candidates(frame.best(module.keys_per_frame)) for frame in frames]
    extras = {name: torch.stack([own[name] for own in encoded], dim=1) for name in encoded[0]}
    result, state = module(replace(frames[reference], extras=extras), {})
    assert state == {}
    return result.features[0][0, :, :, 0, 0]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))


def slow(
    module: Aggregation, c: list[Tensor], r: list[Tensor], s: list[float], o: list[float]
) -> list[Tensor]:
    """The formulas for the candidates of all frames, one pair after the other."""
    width, heads = module.first.in_features // 2, module.heads
    depth, count = width // heads, len(c)
    parts = [module.class_layer.weight, module.box_layer.weight]
    (q_c, k_c, *v_c), (q_r, k_r, *v_r) = (weight.split(width) for weight in parts)
    v = [v_r[0] @ x for x in r] if module.of_boxes else [v_c[0] @ x for x in c]

    def head(x: Tensor, h: int) -> Tensor:
        return x[h * depth : (h + 1) * depth]

    def attention(n: int, h: int) -> list[float]:
        row = [0.0] * count
        for query, key, x, factor in ((q_c, k_c, c, s), (q_r, k_r, r, o)):
            exponents = [
                math.exp(25 * cosine(head(query @ x[n], h), head(key @ x[m], h)) * factor[m])
                for m in range(count)
            ]
            row = [a + e / sum(exponents) / 2 for a, e in zip(row, exponents, strict=True)]
        return row

    weights = [[attention(n, h) for h in range(heads)] for n in range(count)]
    x = []
    for n in range(count):
        gathered = [
            sum(a * head(v[m], h) for m, a in enumerate(weights[n][h])) for h in range(heads)
        ]
        x.append(module.first(torch.cat([*gathered, v[n]])))
    y = []
    for n in range(count):
        mean = [sum(weights[n][h][m] for h in range(heads)) / heads for m in range(count)]
        alike = [
            math.exp(mean[m])
            * (
                sum(cosine(head(v[n], h), head(v[m], h)) for h in range(heads)) / heads
                > module.threshold
            )
            for m in range(count)
        ]
        average = sum(a / sum(alike) * x[m] for m, a in enumerate(alike))
        y.append(module.second(torch.cat((average, x[n]))))
    return y


@pytest.mark.parametrize("spec", [CELLS, SINGLE], ids=["two branches", "one vector"])
@pytest.mark.parametrize("objectness", [False, True])
@torch.no_grad()
def test_like_a_slow_implementation(objectness: bool, spec: CandidateSpec) -> None:
    module = lively(spec, objectness=objectness)
    frames = frames_of(module, spec)
    features = [x for frame in frames for x in frame.features[0][0, :, :, 0, 0]]
    c, r = ([x[:6] for x in features], [x[-6:] for x in features])
    s, o = (torch.cat([frame.factors[0, 0] for frame in frames])[:, n].tolist() for n in (0, 1))
    expected = [torch.stack(slow(m, c, r, s, o)) for m in module.aggregations]
    assert len(expected) == 1 + objectness
    for reference in range(3):
        own = slice(4 * reference, 4 * reference + 4)
        wanted = torch.cat([y[own] for y in expected], dim=1)
        torch.testing.assert_close(fused(module, frames, reference), wanted, rtol=1e-4, atol=1e-5)
    assert module.spec == CandidateSpec(32 * len(expected), branches=len(expected))


@torch.no_grad()
def test_the_order_of_frames_and_keys_does_not_matter() -> None:
    module = lively(objectness=True)
    frames = frames_of(module)
    expected = fused(module, frames, 0)
    torch.testing.assert_close(fused(module, [frames[0], frames[2], frames[1]], 0), expected)
    order = torch.tensor([2, 0, 3, 1])
    turned = replace(
        frames[1],
        features=(frames[1].features[0][:, order],),
        confidences=frames[1].confidences[:, :, order],
    )
    torch.testing.assert_close(fused(module, [frames[0], turned, frames[2]], 0), expected)


@torch.no_grad()
def test_invalid_keys_count_for_nothing() -> None:
    module = lively(objectness=True)
    frames = frames_of(module)
    is_valid = torch.tensor([True, True, False, False]).view(1, 1, 4)
    partly = [frames[0], replace(frames[1], is_valid=is_valid), frames[2]]
    fewer = [module.encode_candidates(frame) for frame in partly]
    keys = {name: torch.cat([own[name] for own in fewer], dim=1) for name in fewer[0]}
    rows = keys["is_key"][0].nonzero()[:, 0]
    assert len(rows) == 10
    extras = {name: value[:, rows].unsqueeze(1) for name, value in keys.items()}
    alone, _ = module(replace(frames[0], extras=extras), {})
    expected = alone.features[0][0, :, :, 0, 0]
    torch.testing.assert_close(fused(module, partly, 0), expected)
    assert not torch.allclose(fused(module, frames, 0), expected, atol=1e-3)


def test_without_any_key_or_features_nothing_is_nan() -> None:
    module = lively(objectness=True).train()
    for frames in (
        [replace(f, is_valid=torch.zeros_like(f.is_valid)) for f in frames_of(module)],
        [replace(f, features=(0 * f.features[0],)) for f in frames_of(module)],
        frames_of(module, candidates=0),
    ):
        module.zero_grad()
        result = fused(module, frames, 1)
        assert result.isfinite().all()
        result.square().sum().backward()
        for name, weight in module.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name


@torch.no_grad()
def test_a_candidate_without_a_similar_key_is_averaged_with_itself() -> None:
    module = lively(keys_per_frame=1)
    frames = frames_of(module, count=1)
    (part,) = module.aggregations
    opposite = replace(
        frames[0],
        features=(frames[0].features[0] * torch.tensor([1.0, -1, -1, -1]).view(1, 4, 1, 1, 1),),
    )
    encoded = module.encode_candidates(opposite.best(1))
    own = module._project(opposite.features[0])
    weights = part._attention(own, encoded["projected"], encoded["factors"], encoded["is_key"])
    torch.testing.assert_close(weights, torch.ones(1, 2, 4, 1))
    v, v_key = own.chunk(5, dim=2)[4][0], encoded["projected"].chunk(5, dim=2)[4][0, 0]
    x = part.first(torch.cat((v_key, v[2])))
    alone = part.second(torch.cat((x, x)))
    torch.testing.assert_close(fused(module, [opposite], 0)[2], alone)


@pytest.mark.parametrize("options", [{"width": 9}, {"heads": 0}, {"keys_per_frame": -1}])
def test_numbers_out_of_range_are_refused(options: dict[str, int]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ConfigError, match=f"YOLOV: expected positive.*{name}={value}"):
        lively(**options)
