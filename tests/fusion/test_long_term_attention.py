from __future__ import annotations

import json
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from recipe import REFERENCE, recipe_weight
from vodet.encodings import KeyFrame, RoIs, RoISpec, TemporalMemory
from vodet.errors import ConfigError
from vodet.fusion.long_term_attention import LongTermAttention
from vodet.fusion.propagation import propagated
from vodet.fusion.relation import geometry_embedding, relative_geometry

SPEC = RoISpec(4, 2)
small = partial(LongTermAttention, SPEC, width=32, group_width=16, keys_per_frame=3)
THEIR_NAMES = {"query": "Wqs", "key": "Wks", "value": "Wvs", "geometry": "Wgs"}


def make_rois(features: Tensor, boxes: Tensor, lengths=None) -> RoIs:
    """RoIs of clips of one frame, from ``[B, N, C, s, s]`` and ``[B, N, 4]``."""
    clips, count = features.shape[:2]
    is_valid = torch.arange(count) < torch.tensor(lengths or [count] * clips).unsqueeze(1)
    objectness = torch.linspace(1, 0, count).expand(clips, -1)
    sizes = torch.tensor([[100, 100]]).expand(clips, 2)
    return RoIs((features,), boxes.unsqueeze(1), objectness, is_valid, sizes, 0)


def random_boxes(*shape: int) -> Tensor:
    corner = 60 * torch.rand(*shape, 2)
    return torch.cat((corner, corner + 5 + 30 * torch.rand(*shape, 2)), dim=-1)


def random_rois(clips: int = 1, count: int = 5, lengths=None) -> RoIs:
    return make_rois(torch.randn(clips, count, 4, 2, 2), random_boxes(clips, count), lengths)


def random_memory(*lengths: int, answered: int = 1) -> TemporalMemory:
    frames = [KeyFrame(torch.randn(n, 32).relu(), random_boxes(n)) for n in lengths]
    return TemporalMemory(answered, tuple(frames))


def lively(**options) -> LongTermAttention:
    torch.manual_seed(0)
    module = small(**options)
    for weight in module.attentions.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return module.eval()


def attended(module: LongTermAttention, rois: RoIs, *memories: TemporalMemory) -> Tensor:
    return module(rois, memories)[0].features[0][:, :, :, 0, 0]


def their_name(name: str) -> str:
    """``attentions.0.query.weight`` is ``Wqs.0.weight``; ``fcs.0.weight`` is called the same."""
    _, number, *rest = name.split(".")
    return name if len(rest) == 1 else f"{THEIR_NAMES[rest[0]]}.{number}.{rest[1]}"


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    values = {}
    for part in ("inputs", "two_stages"):
        with np.load(REFERENCE / f"long_term_{part}.npz") as file:
            values |= {name: torch.as_tensor(file[name]) for name in file.files}
    return values


@pytest.fixture(scope="module")
def reference_module() -> LongTermAttention:
    recipe = json.loads((REFERENCE / "long_term_weights_recipe.json").read_text())
    module = LongTermAttention(RoISpec(8, 3), keys_per_frame=8)
    for name, weight in module.named_parameters():
        entry = recipe["tensors"][their_name(name)]
        values = recipe_weight(entry["shape"], entry["seed"], entry["scale"])
        weight.data = values.view(weight.shape)
    return module


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-3) -> None:
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < tolerance, f"relative error {error:.1e}"


def test_training_and_its_gradients_agree_with_the_reference(reference, reference_module):
    module = reference_module.train()
    module.zero_grad()
    keys = [
        module.key_frames(
            make_rois(reference[f"kf{i}_pooled"][None], reference[f"kf{i}_rois"][None])
        )[0]
        for i in range(2)
    ]
    x = reference["x"].clone().requires_grad_()
    rois = make_rois(x[None], reference["rois_cur"][None])
    found = attended(module, rois, TemporalMemory(key_frames=tuple(keys)))[0]
    assert_same(found, reference["train_out"])
    (found * recipe_weight((12, 1024), seed=7, scale=1)).sum().backward()
    assert_same(x.grad, reference["train_grad_x"])
    for name, weight in module.named_parameters():
        expected = reference[f"grad_{their_name(name).replace('.', '_')}_norm"].item()
        if name.endswith("key.bias"):  # moves all logits of a RoI alike: nothing but rounding
            assert weight.grad.norm() < 1e-3
            continue
        assert weight.grad.norm().item() == pytest.approx(expected, rel=1e-3), name


@torch.no_grad()
@pytest.mark.parametrize(("frames", "prefix"), [(2, "test"), (0, "test_empty_buffer")])
def test_answers_agree_with_the_reference(reference, reference_module, frames, prefix):
    module = reference_module.eval()
    keys = [KeyFrame(reference[f"kf{i}_feat"], reference[f"kf{i}_rois"]) for i in range(frames)]
    asked = []
    last = module.attentions[-1]
    hook = last.register_forward_pre_hook(
        lambda _, inputs: asked.append(last.forward(*inputs[:3], 150)[1])
    )
    rois = make_rois(reference["x"][None], reference["rois_cur"][None])
    found, (after,) = module(rois, [TemporalMemory(key_frames=tuple(keys))])
    hook.remove()
    assert_same(found.features[0][0, :, :, 0, 0], reference[f"{prefix}_out"])
    assert_same(after.key_frames[-1].features, reference[f"{prefix}_x_out"], 1e-5)
    assert torch.equal(after.key_frames[-1].boxes, reference["rois_cur"][:8])
    assert_same(asked[0][0].view(12, frames + 1, 8), reference[f"{prefix}_weights"])


def test_every_few_answers_a_frame_is_remembered_and_the_oldest_forgotten():
    module = small(num_key_frames=2, key_frame_interval=3).eval()
    memory, best, remembered = TemporalMemory(), [], []
    for _ in range(11):
        rois = random_rois()
        best.append(module.key_frames(rois)[0])
        _, (memory,) = module(rois, [memory])
        remembered.append(
            [
                number
                for frame in memory.key_frames
                for number, own in enumerate(best)
                if torch.equal(frame.features, own.features) and torch.equal(frame.boxes, own.boxes)
            ]
        )
        memory = memory.after_answer()
    assert remembered == 3 * [[0]] + 3 * [[0, 3]] + 3 * [[3, 6]] + 2 * [[6, 9]]


def test_the_best_rois_are_remembered_before_attention():
    module, rois = lively(), random_rois(clips=2, lengths=[2, 5])
    _, memories = module(rois, [random_memory(4), TemporalMemory()])
    x0 = module.fcs[0](rois.features[0].flatten(2)).relu()
    for clip, (memory, count) in enumerate(zip(memories, (2, 3), strict=True)):
        frame = module.key_frames(rois)[clip]
        assert torch.equal(frame.features, x0[clip, :count])
        assert torch.equal(frame.boxes, rois.boxes[clip, 0, :count])
        if clip == 1:
            assert torch.equal(memory.key_frames[-1].features, frame.features)
    assert len(memories[0].key_frames) == 1  # its first answer has been given


def test_the_memory_that_came_is_not_changed():
    module, memory = lively(key_frame_interval=1, propagate="replace"), random_memory(4)
    before = memory.key_frames[0].boxes.clone()
    module(random_rois(), [memory])
    assert len(memory.key_frames) == 1
    assert torch.equal(memory.key_frames[0].boxes, before)


def test_in_training_nothing_is_remembered_and_own_rois_are_no_keys():
    module, rois = lively(key_frame_interval=1).train(), random_rois()
    memory = random_memory(4)
    found, after = module(rois, [memory])
    assert after == [memory]
    own = module.key_frames(rois)
    module.eval()
    answer = attended(module, rois, memory)[0]
    assert not torch.allclose(answer, found.features[0][0, :, :, 0, 0])
    module.train()
    with_own = TemporalMemory(key_frames=(*memory.key_frames, *own))
    torch.testing.assert_close(answer, attended(module, rois, with_own)[0])


def test_with_keys_of_the_window_nothing_is_added_in_evaluation_either():
    module, rois, memory = lively(keys="window"), random_rois(), random_memory(3, 3)
    found, after = module(rois, [memory])
    assert after == [memory]
    torch.testing.assert_close(found.features[0], module.train()(rois, [memory])[0].features[0])


@pytest.mark.parametrize("propagate", ["replace", "center"])
def test_boxes_of_the_memory_follow_the_weights_of_the_last_stage(propagate):
    module, rois, memory = lively(propagate=propagate), random_rois(), random_memory(3, 2)
    asked, last = [], module.attentions[-1]
    last.register_forward_pre_hook(
        lambda _, inputs: asked.append(last.forward(*inputs[:3], 150)[1])
    )
    _, (after,) = module(rois, [memory])
    (expected,) = propagated([memory], asked[0], rois, to_center=propagate == "center")
    for found, frame, old in zip(
        after.key_frames, expected.key_frames, memory.key_frames, strict=True
    ):
        assert torch.equal(found.boxes, frame.boxes)
        assert torch.equal(found.features, old.features)
        assert not torch.equal(found.boxes, old.boxes)


def test_a_new_key_frame_comes_with_its_own_boxes_where_boxes_follow():
    module, rois = lively(propagate="replace"), random_rois()
    _, (after,) = module(rois, [random_memory(3, answered=10)])
    assert len(after.key_frames) == 2
    assert torch.equal(after.key_frames[1].boxes, rois.boxes[0, 0, :3])


@pytest.mark.parametrize("options", [{}, {"geometry": False}, {"advanced_share": 0.5}])
@pytest.mark.parametrize("is_training", [False, True])
def test_padding_and_other_clips_do_not_matter(options, is_training):
    module = lively(key_frame_interval=1, **options).train(is_training)
    lengths = [2, 5, 4]
    rois = random_rois(clips=3, lengths=lengths)
    memories = [random_memory(1, 2), random_memory(4, 3, 2), TemporalMemory()]
    together, after = module(rois, memories)
    for clip, length in enumerate(lengths):
        alone = make_rois(
            rois.features[0][clip : clip + 1, :length], rois.boxes[clip : clip + 1, 0, :length]
        )
        found, (memory,) = module(alone, [memories[clip]])
        torch.testing.assert_close(together.features[0][clip, :length], found.features[0][0])
        for one, other in zip(after[clip].key_frames, memory.key_frames, strict=True):
            torch.testing.assert_close(one.features, other.features)
            assert torch.equal(one.boxes, other.boxes)


@pytest.mark.parametrize("options", [{}, {"geometry": False}, {"advanced_share": 0.5}])
@pytest.mark.parametrize("others", [(), (3, 2)])
def test_without_keys_only_the_layers_are_left_and_gradients_are_finite(options, others):
    module = lively(**options).train()
    rois = random_rois(clips=2)
    rois.features[0].requires_grad_()
    found = attended(module, rois, TemporalMemory(), random_memory(*others))
    x = rois.features[0][0].flatten(1)
    for fc in module.fcs[:2]:
        x = fc(x).relu()
    torch.testing.assert_close(found[0], x)
    found.square().sum().backward()
    assert rois.features[0].grad.isfinite().all()
    for name, weight in module.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        if not others:
            assert not weight.grad.any() or name.startswith(("fcs.0", "fcs.1")), name


def test_a_frame_without_rois_is_answered_and_remembered():
    module, rois = lively(), random_rois(clips=2, lengths=[0, 5])
    _, after = module(rois, [TemporalMemory(), random_memory(2)])
    assert [len(frame.boxes) for frame in after[0].key_frames] == [0]
    found = attended(module, random_rois(), after[0])
    assert found.isfinite().all()
    empty = make_rois(torch.zeros(1, 0, 4, 2, 2), torch.zeros(1, 0, 4))
    assert attended(module, empty, random_memory(2)).shape == (1, 0, 32)


def test_under_autocast_answers_are_nearly_the_same_and_boxes_keep_their_precision():
    module, rois, memory = (
        lively(key_frame_interval=1, propagate="center"),
        random_rois(),
        random_memory(3),
    )
    expected = attended(module, rois, memory)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, (after,) = module(rois, [memory])
        again, _ = module(rois, [after])
    error = (found.features[0][:, :, :, 0, 0] - expected).abs().max() / expected.abs().max()
    assert error < 0.05
    assert again.features[0].isfinite().all()
    assert {frame.boxes.dtype for frame in after.key_frames} == {torch.float32}


def added(module, number: int, x: Tensor, boxes: Tensor, keys: Tensor, key_boxes: Tensor) -> Tensor:
    attention = module.attentions[number]
    embedding = geometry_embedding(relative_geometry(boxes, key_boxes), 16)[None]
    bias = attention.bias(embedding, torch.ones(1, len(keys), dtype=torch.bool))
    return attention(x[None], attention.project(keys[None]), bias)[0][0]


@pytest.mark.parametrize("stages", [1, 3])
def test_stages_and_the_advanced_stage_agree_with_their_formulas(stages):
    module = lively(stages=stages, advanced_share=0.4).train()
    rois, memory = random_rois(), random_memory(5, 4, 1)
    boxes = rois.boxes[0, 0]
    keys = torch.cat([frame.features for frame in memory.key_frames])
    key_boxes = torch.cat([frame.boxes for frame in memory.key_frames])
    x = rois.features[0][0].flatten(1)
    for stage in range(stages):
        x = module.fcs[stage](x).relu()
        x = x + added(module, stage, x, boxes, keys, key_boxes)
    rows = [0, 1, 5, 6, 9]  # two of five, two of four, one of one
    best, best_boxes = keys[rows], key_boxes[rows]
    best = best + added(module, -2, best, best_boxes, keys, key_boxes)
    best = module.fcs[-1](best).relu()
    expected = x + added(module, -1, x, boxes, best, best_boxes)
    torch.testing.assert_close(attended(module, rois, memory)[0], expected)
    assert len(module.fcs) == stages + 1
    assert len(module.attentions) == stages + 2


def test_without_geometry_it_does_not_matter_where_boxes_lie():
    rois, memory = random_rois(), random_memory(3)
    elsewhere = make_rois(rois.features[0], random_boxes(1, 5))
    for geometry in (False, True):
        module = lively(geometry=geometry)
        same = torch.equal(attended(module, rois, memory), attended(module, elsewhere, memory))
        assert same != geometry


def test_layers_start_as_kaiming_uniform_with_zero_bias():
    module = LongTermAttention(RoISpec(8, 3), width=128)
    widths = [fc.in_features for fc in module.fcs] + [module.fcs[-1].out_features]
    assert widths == [72, 128, 128]
    for fc, (fan_in, _) in zip(module.fcs, pairwise(widths), strict=True):
        assert 0.98 * math.sqrt(3 / fan_in) < fc.weight.abs().max() <= math.sqrt(3 / fan_in)
        assert not fc.bias.any()
    assert module.spec == RoISpec(128, 1)


def test_a_memory_of_another_width_is_refused():
    memory = TemporalMemory(key_frames=(KeyFrame(torch.zeros(2, 16), torch.zeros(2, 4)),))
    expected = "comes from another detector: expected 32 features of each RoI, found 16"
    with pytest.raises(ConfigError, match=expected):
        small().eval()(random_rois(), [memory])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"keys": "all"}, "keys must be one of memory, window; found 'all'"),
        ({"propagate": "move"}, "propagate must be one of none, replace, center; found 'move'"),
        ({"keys": "window", "propagate": "center"}, "none where keys=window; found 'center'"),
        ({"width": 40}, "width must be a multiple of group_width=16; found 40"),
        ({"group_width": 12}, "group_width must be a multiple of 8; found 12"),
        ({"advanced_share": 1.5}, "advanced_share must be a share, 0 to 1; found 1.5"),
        ({"advanced_share": -0.5}, "advanced_share must be a share, 0 to 1; found -0.5"),
        ({"stages": 0}, "stages must be at least 1; found 0"),
        ({"keys_per_frame": 0}, "keys_per_frame must be at least 1; found 0"),
        ({"num_key_frames": 0}, "num_key_frames must be at least 1; found 0"),
        ({"key_frame_interval": 0}, "key_frame_interval must be at least 1; found 0"),
        ({"group_width": 0}, "group_width must be .*; found 0"),
        ({"width": 0}, "width must be .*; found 0"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options, expected):
    with pytest.raises(ConfigError, match=f"LongTermAttention: .*{expected}"):
        small(**options)
