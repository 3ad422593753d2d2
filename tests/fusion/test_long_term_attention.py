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
from vodet.encodings import Candidates, CandidateSpec, EncodedFrames, FeatureMaps, State
from vodet.errors import ConfigError, DataError
from vodet.fusion.long_term_attention import LongTermAttention
from vodet.fusion.propagation import assigned_by_attention, follow_tracks, propagated
from vodet.fusion.relation import geometry_embedding, relative_geometry
from vodet.structures import Target

SPEC = CandidateSpec(4, 2)
small = partial(LongTermAttention, SPEC, width=32, group_width=16, keys_per_frame=3)
THEIR_NAMES = {"query": "Wqs", "key": "Wks", "value": "Wvs", "geometry": "Wgs"}


def make_candidates(features: Tensor, boxes: Tensor, lengths=None) -> Candidates:
    """Candidates of clips of one frame, from ``[B, N, C, s, s]`` and ``[B, N, 4]``."""
    clips, count = features.shape[:2]
    is_valid = torch.arange(count) < torch.tensor(lengths or [count] * clips).unsqueeze(1)
    return Candidates(
        features=(features,),
        boxes=boxes.unsqueeze(1),
        scores=torch.linspace(1, 0, count).expand(clips, 1, -1),
        is_valid=is_valid.unsqueeze(1),
        sizes=torch.tensor([[100, 100]]).expand(clips, 2),
        reference=0,
        linked=False,
        extras={},
    )


def random_boxes(*shape: int) -> Tensor:
    corner = 60 * torch.rand(*shape, 2)
    return torch.cat((corner, corner + 5 + 30 * torch.rand(*shape, 2)), dim=-1)


def random_candidates(clips: int = 1, count: int = 5, lengths=None) -> Candidates:
    return make_candidates(torch.randn(clips, count, 4, 2, 2), random_boxes(clips, count), lengths)


KeyFrame = tuple[Tensor, Tensor]  # features [M, D] and boxes [M, 4]


def random_frames(*lengths: int) -> list[KeyFrame]:
    return [(torch.randn(n, 32).relu(), random_boxes(n)) for n in lengths]


FRAMES = EncodedFrames(FeatureMaps((torch.zeros(1, 4, 2, 2),)), torch.tensor([[100, 100]]), {})


def state_of(
    module: LongTermAttention,
    *videos: list[KeyFrame],
    processed: int = 1,
    recalled: bool | list[bool] = False,
) -> State:
    """The state of videos with these key frames, oldest first, and what nobody may look at."""
    begun = module.begin(len(videos), FRAMES)
    lengths = [len(boxes) for frames in videos for _, boxes in frames]
    most = max([module.keys_per_frame, *lengths])
    shape = (*begun["is_valid"].shape[:2], most)
    features = torch.full((*shape, module.spec.width), 5.0)
    boxes = torch.tensor([3.0, 3, 9, 9]).expand(*shape, 4).clone()
    is_valid = torch.zeros(shape, dtype=torch.bool)
    for item, frames in enumerate(videos):
        for place, (own, own_boxes) in enumerate(frames):
            features[item, place, : len(own)] = own
            boxes[item, place, : len(own)] = own_boxes
            is_valid[item, place, : len(own)] = True
    attentions = [module._attention(layer) for layer in range(module.layers)]
    return {
        "features": features,
        "projected": torch.cat([attention.project(features) for attention in attentions], dim=3),
        "boxes": boxes,
        "is_valid": is_valid,
        "processed": torch.full_like(begun["processed"], processed),
        "is_recalled": torch.tensor(recalled).expand(len(videos)),
    }


def of_clip(state: State, clip: int) -> State:
    return {name: value[clip : clip + 1] for name, value in state.items()}


def lively(**options) -> LongTermAttention:
    torch.manual_seed(0)
    module = small(**options)
    for weight in module.attentions.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return module.eval()


def attended(module: LongTermAttention, candidates: Candidates, state: State) -> Tensor:
    return module(candidates, state)[0].features[0][:, :, :, 0, 0]


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
    module = LongTermAttention(CandidateSpec(8, 3), keys_per_frame=8)
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
    history = [
        make_candidates(reference[f"kf{i}_pooled"][None], reference[f"kf{i}_rois"][None])
        for i in range(2)
    ]
    state = module.recall(module.begin(1, FRAMES), history, [[None]] * 2, [None])
    x = reference["x"].clone().requires_grad_()
    candidates = make_candidates(x[None], reference["rois_cur"][None])
    found = attended(module, candidates, state)[0]
    assert_same(found, reference["train_out"])
    (found * recipe_weight((12, 1024), seed=7, scale=1)).sum().backward()
    assert_same(x.grad, reference["train_grad_x"])
    for name, weight in module.named_parameters():
        expected = reference[f"grad_{their_name(name).replace('.', '_')}_norm"].item()
        if name.endswith("key.bias"):  # moves all logits of a candidate alike: nothing but rounding
            assert weight.grad.norm() < 1e-3
            continue
        assert weight.grad.norm().item() == pytest.approx(expected, rel=1e-3), name


@torch.no_grad()
@pytest.mark.parametrize(("frames", "prefix"), [(2, "test"), (0, "test_empty_buffer")])
def test_predictions_agree_with_the_reference(reference, reference_module, frames, prefix):
    module = reference_module.eval()
    keys = [(reference[f"kf{i}_feat"], reference[f"kf{i}_rois"]) for i in range(frames)]
    state = state_of(module, keys, processed=10 * frames)
    asked = []
    last = module.attentions[-1]
    hook = last.register_forward_pre_hook(
        lambda _, inputs: asked.append(last.forward(*inputs[:3], 150)[1])
    )
    candidates = make_candidates(reference["x"][None], reference["rois_cur"][None])
    found, after = module(candidates, state)
    hook.remove()
    assert_same(found.features[0][0, :, :, 0, 0], reference[f"{prefix}_out"])
    assert after["is_valid"].any(dim=2).tolist() == [[True] * (frames + 1) + [False] * (4 - frames)]
    assert_same(after["features"][0, frames], reference[f"{prefix}_x_out"], 1e-5)
    assert torch.equal(after["boxes"][0, frames], reference["rois_cur"][:8])
    weights = asked[0][0].view(12, 6, 8)  # of five key frames and of the frame itself
    assert not weights[:, frames:5].any()
    assert_same(weights[:, [*range(frames), 5]], reference[f"{prefix}_weights"])


def own_frame(module: LongTermAttention, candidates: Candidates, clip: int = 0) -> KeyFrame:
    """What is to be remembered: the best, before attention."""
    x0 = module.fcs[0](candidates.features[0].flatten(2)).relu()
    return x0[clip, : module.keys_per_frame], candidates.boxes[clip, 0, : module.keys_per_frame]


def test_every_few_frames_one_is_remembered_and_the_oldest_forgotten():
    module = small(num_key_frames=2, key_frame_interval=3).eval()
    state, best, remembered = module.begin(1, FRAMES), [], []
    for frame in range(11):
        candidates = random_candidates()
        best.append(own_frame(module, candidates))
        _, state = module(candidates, state)
        newest = frame // 3 % 2
        remembered.append(
            [
                number
                for place in (1 - newest, newest)
                for number, (features, boxes) in enumerate(best)
                if torch.equal(state["features"][0, place], features)
                and torch.equal(state["boxes"][0, place], boxes)
            ]
        )
        assert int(state["is_valid"].all(dim=2).sum()) == len(remembered[-1])
        assert int(state["is_valid"].any(dim=2).sum()) == len(remembered[-1])
    assert remembered == 3 * [[0]] + 3 * [[0, 3]] + 3 * [[3, 6]] + 2 * [[6, 9]]
    assert state["processed"].tolist() == [11]


def test_the_best_candidates_are_remembered_before_attention():
    module, candidates = lively(), random_candidates(clips=2, lengths=[2, 5])
    state = state_of(module, random_frames(3), [])
    state["processed"] = torch.tensor([1, 0])
    x0 = module.fcs[0](candidates.features[0].flatten(2)).relu()
    _, begun = module(candidates, module.begin(2, FRAMES))
    for clip, count in enumerate((2, 3)):
        assert begun["is_valid"][clip, 0].tolist() == [True] * count + [False] * (3 - count)
        assert torch.equal(begun["features"][clip, 0, :count], x0[clip, :count])
        assert torch.equal(begun["boxes"][clip, 0, :count], candidates.boxes[clip, 0, :count])
    _, after = module(candidates, state)
    for name in ("features", "projected", "boxes", "is_valid"):
        assert torch.equal(after[name][1, 0], begun[name][1, 0])
        assert torch.equal(after[name][0], state[name][0])  # its first frame has been processed
    assert after["is_valid"].any(dim=2).sum(dim=1).tolist() == [1, 1]
    assert after["processed"].tolist() == [2, 1]


def test_what_is_remembered_is_projected_once():
    module, candidates = lively(key_frame_interval=1), random_candidates()
    _, after = module(candidates, module.begin(1, FRAMES))
    first = after["features"][0, 0]
    expected = [module.attentions[layer].project(first) for layer in range(2)]
    torch.testing.assert_close(after["projected"][0, 0], torch.cat(expected, dim=1))


def test_the_state_that_came_is_not_changed():
    module = lively(key_frame_interval=1, propagate="replace")
    state = state_of(module, random_frames(3))
    before = {name: value.clone() for name, value in state.items()}
    _, after = module(random_candidates(), state)
    assert all(torch.equal(value, before[name]) for name, value in state.items())
    assert {name: value.shape for name, value in after.items()} == {
        name: value.shape for name, value in before.items()
    }


@pytest.mark.parametrize("is_training", [False, True])
def test_beside_recalled_key_frames_nothing_is_remembered_and_own_candidates_are_no_keys(
    is_training,
):
    module, candidates = lively(key_frame_interval=1).train(is_training), random_candidates()
    frames = random_frames(3)
    state = state_of(module, frames, recalled=True)
    found, after = module(candidates, state)
    assert after.keys() == state.keys()
    for name in state.keys() - {"processed"}:
        assert torch.equal(after[name], state[name]), name
    assert after["processed"].tolist() == [2]
    result = attended(module, candidates, state_of(module, frames))[0]
    assert not torch.allclose(result, found.features[0][0, :, :, 0, 0])
    with_own = state_of(module, [*frames, own_frame(module, candidates)], recalled=True)
    torch.testing.assert_close(result, attended(module, candidates, with_own)[0])


def test_without_a_recalled_state_training_is_as_evaluation():
    module, candidates = lively(key_frame_interval=1), random_candidates()
    state = state_of(module, random_frames(3))
    expected, expected_after = module(candidates, state)
    found, after = module.train()(candidates, state)
    assert torch.equal(found.features[0], expected.features[0])
    assert after.keys() == expected_after.keys()
    for name, value in expected_after.items():
        assert torch.equal(after[name], value), name
    assert after["is_valid"].any(dim=2).tolist() == [[True, True, False, False, False]]


@pytest.mark.parametrize("recalled", [False, True])
@pytest.mark.parametrize("propagate", ["replace", "center"])
def test_in_training_remembered_boxes_stay(propagate, recalled):
    module = lively(propagate=propagate).train()
    state = state_of(module, random_frames(3), recalled=recalled)
    _, after = module(random_candidates(), state)
    assert torch.equal(after["boxes"], state["boxes"])


@pytest.mark.parametrize("propagate", ["replace", "center"])
def test_remembered_boxes_follow_the_weights_of_the_last_stage(propagate):
    module, candidates = lively(propagate=propagate), random_candidates()
    state = state_of(module, random_frames(3, 2))
    asked, last = [], module.attentions[-1]
    last.register_forward_pre_hook(
        lambda _, inputs: asked.append(last.forward(*inputs[:3], 150)[1])
    )
    _, after = module(candidates, state)
    assigned = assigned_by_attention(state, asked[0], candidates)
    expected = propagated(state, assigned, candidates, to_center=propagate == "center")
    assert torch.equal(after["boxes"], expected)
    assert torch.equal(after["features"], state["features"])
    assert torch.equal(after["is_valid"], state["is_valid"])
    moved = (after["boxes"] != state["boxes"]).any(dim=3)
    assert moved[0].any(dim=1).tolist() == [True, True, False, False, False]
    assert not moved[~state["is_valid"]].any()


def test_boxes_follow_the_best_150_candidates():
    module, candidates = lively(propagate="replace"), random_candidates(count=160)
    state, counts, last = state_of(module, random_frames(3)), [], module.attentions[-1]
    asked = []

    def ask(_, inputs):
        counts.append(inputs[3])
        asked.append(last.forward(*inputs[:3], 150)[1])

    last.register_forward_pre_hook(ask)
    _, after = module(candidates, state)
    assert counts == [150]
    assert asked[0].shape == (1, 150, 6 * 3)
    assigned = assigned_by_attention(state, asked[0], candidates)
    assert torch.equal(after["boxes"], propagated(state, assigned, candidates, to_center=False))


def test_a_new_key_frame_comes_with_its_own_boxes_where_boxes_follow():
    module, candidates = lively(propagate="replace"), random_candidates()
    _, after = module(candidates, state_of(module, random_frames(3), processed=10))
    assert after["is_valid"][0].any(dim=1).tolist() == [True, True, False, False, False]
    assert torch.equal(after["boxes"][0, 1], candidates.boxes[0, 0, :3])


@pytest.mark.parametrize("options", [{}, {"geometry": False}, {"advanced_share": 0.5}])
@pytest.mark.parametrize(
    ("is_training", "recalled"),
    [(False, [False] * 3), (True, [False] * 3), (True, [True] * 3), (True, [True, False, True])],
)
def test_padding_and_other_clips_do_not_matter(options, is_training, recalled):
    module = lively(key_frame_interval=1, keys_per_frame=4, **options).train(is_training)
    lengths = [2, 5, 4]
    candidates = random_candidates(clips=3, lengths=lengths)
    videos = [random_frames(1, 2), random_frames(4, 3, 2), []]
    state = state_of(module, *videos, recalled=recalled)
    together, after = module(candidates, state)
    for clip, length in enumerate(lengths):
        alone = make_candidates(
            candidates.features[0][clip : clip + 1, :length],
            candidates.boxes[clip : clip + 1, 0, :length],
        )
        found, own = module(alone, state_of(module, videos[clip], recalled=recalled[clip]))
        torch.testing.assert_close(together.features[0][clip, :length], found.features[0][0])
        is_valid = own["is_valid"]
        assert torch.equal(after["is_valid"][clip], is_valid[0])
        together_after = of_clip(after, clip)
        torch.testing.assert_close(together_after["features"][is_valid], own["features"][is_valid])
        assert torch.equal(together_after["boxes"][is_valid], own["boxes"][is_valid])


@pytest.mark.parametrize("options", [{}, {"geometry": False}, {"advanced_share": 0.5}])
@pytest.mark.parametrize("others", [(), (3, 2)])
def test_without_keys_only_the_layers_are_left_and_gradients_are_finite(options, others):
    module = lively(**options).train()
    candidates = random_candidates(clips=2)
    candidates.features[0].requires_grad_()
    state = state_of(module, [], random_frames(*others), recalled=True)
    found = attended(module, candidates, state)
    x = candidates.features[0][0].flatten(1)
    for fc in module.fcs[:2]:
        x = fc(x).relu()
    torch.testing.assert_close(found[0], x)
    found.square().sum().backward()
    assert candidates.features[0].grad.isfinite().all()
    for name, weight in module.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        if not others:
            assert not weight.grad.any() or name.startswith(("fcs.0", "fcs.1")), name


def test_a_frame_without_candidates_is_predicted_and_remembered():
    module, candidates = lively(), random_candidates(clips=2, lengths=[0, 5])
    state = state_of(module, [], random_frames(2))
    state["processed"] = torch.tensor([0, 1])
    _, after = module(candidates, state)
    assert not after["is_valid"][0].any()
    assert after["processed"].tolist() == [1, 2]
    found = attended(module, random_candidates(), of_clip(after, 0))
    assert found.isfinite().all()
    empty = make_candidates(torch.zeros(1, 0, 4, 2, 2), torch.zeros(1, 0, 4))
    state = state_of(module, random_frames(2), processed=10)
    found, after = module(empty, state)
    assert found.features[0].shape == (1, 0, 32, 1, 1)
    assert after["is_valid"][0].any(dim=1).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("propagate", ["replace", "center"])
def test_where_boxes_follow_a_frame_without_candidates_leaves_them(propagate):
    module = lively(propagate=propagate)
    state = state_of(module, random_frames(2))
    _, after = module(random_candidates(lengths=[0]), state)
    assert torch.equal(after["boxes"], state["boxes"])
    empty = make_candidates(torch.zeros(1, 0, 4, 2, 2), torch.zeros(1, 0, 4))
    _, after = module(empty, state)
    assert torch.equal(after["boxes"], state["boxes"])


def test_under_autocast_predictions_are_nearly_the_same_and_boxes_keep_their_precision():
    module, candidates = lively(key_frame_interval=1, propagate="center"), random_candidates()
    state = state_of(module, random_frames(3))
    expected = attended(module, candidates, state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, after = module(candidates, state)
        again, _ = module(candidates, after)
    error = (found.features[0][:, :, :, 0, 0] - expected).abs().max() / expected.abs().max()
    assert error < 0.05
    assert again.features[0].isfinite().all()
    assert {after[name].dtype for name in ("boxes", "features", "projected")} == {torch.float32}


def added(module, number: int, x: Tensor, boxes: Tensor, keys: Tensor, key_boxes: Tensor) -> Tensor:
    attention = module.attentions[number]
    embedding = geometry_embedding(relative_geometry(boxes, key_boxes), 16)[None]
    bias = attention.bias(embedding, torch.ones(1, len(keys), dtype=torch.bool))
    return attention(x[None], attention.project(keys[None]), bias)[0][0]


@pytest.mark.parametrize("layers", [1, 3])
def test_layers_and_the_advanced_stage_agree_with_their_formulas(layers):
    module = lively(layers=layers, advanced_share=0.4, keys_per_frame=5).train()
    candidates, frames = random_candidates(), random_frames(5, 4, 1)
    boxes = candidates.boxes[0, 0]
    keys = torch.cat([features for features, _ in frames])
    key_boxes = torch.cat([own for _, own in frames])
    x = candidates.features[0][0].flatten(1)
    for layer in range(layers):
        x = module.fcs[layer](x).relu()
        x = x + added(module, layer, x, boxes, keys, key_boxes)
    rows = [0, 1, 5, 6, 9]  # two of five, two of four, one of one
    best, best_boxes = keys[rows], key_boxes[rows]
    best = best + added(module, -2, best, best_boxes, keys, key_boxes)
    best = module.fcs[-1](best).relu()
    expected = x + added(module, -1, x, boxes, best, best_boxes)
    state = state_of(module, frames, recalled=True)
    torch.testing.assert_close(attended(module, candidates, state)[0], expected)
    assert len(module.fcs) == layers + 1
    assert len(module.attentions) == layers + 2


def test_without_geometry_it_does_not_matter_where_boxes_lie():
    candidates, frames = random_candidates(), random_frames(3)
    elsewhere = make_candidates(candidates.features[0], random_boxes(1, 5))
    for geometry in (False, True):
        module = lively(geometry=geometry)
        found, other = (
            attended(module, some, state_of(module, frames)) for some in (candidates, elsewhere)
        )
        assert torch.equal(found, other) != geometry


def test_layers_start_as_kaiming_uniform_with_zero_bias():
    module = LongTermAttention(CandidateSpec(8, 3), width=128)
    widths = [fc.in_features for fc in module.fcs] + [module.fcs[-1].out_features]
    assert widths == [72, 128, 128]
    for fc, (fan_in, _) in zip(module.fcs, pairwise(widths), strict=True):
        assert 0.98 * math.sqrt(3 / fan_in) < fc.weight.abs().max() <= math.sqrt(3 / fan_in)
        assert not fc.bias.any()
    assert module.spec == CandidateSpec(128)


@pytest.mark.parametrize("value_std", [0.0, 0.01])
def test_without_initial_values_the_layers_start_as_a_plain_encoder(value_std):
    module, candidates = small(value_std=value_std).eval(), random_candidates()
    x = candidates.features[0].flatten(2)
    for fc in module.fcs:
        x = fc(x).relu()
    found = attended(module, candidates, state_of(module, random_frames(3)))
    assert torch.equal(found, x) == (value_std == 0)
    found.sum().backward()
    values = [attention.value.weight.grad for attention in module.attentions]
    assert all(grad.any() for grad in values)


def test_a_state_of_another_width_is_refused():
    state = small(width=16).begin(1, FRAMES)
    expected = "comes from another detector: expected 32 features .*, found 16"
    with pytest.raises(ConfigError, match=expected):
        small().eval()(random_candidates(), state)


def test_training_needs_a_history():
    module = small().train()
    with pytest.raises(ConfigError, match=r"set data\.history\.windows, for example to 2"):
        module.recall(module.begin(1, FRAMES), [], [], [None])


@pytest.mark.parametrize("lengths", [[5, 2], [3, 0]])
def test_the_recalled_key_frames_are_the_best_candidates_of_the_history(lengths):
    module = lively().train()
    history = [random_candidates(clips=2, lengths=lengths) for _ in range(2)]
    state = module.recall(module.begin(2, FRAMES), history, [[None] * 2] * 2, [None] * 2)
    assert state["is_recalled"].tolist() == [True, True]
    assert state["features"].shape == (2, 2, 3, 32)
    for number, past in enumerate(history):
        for clip, length in enumerate(lengths):
            count = min(length, 3)
            features, boxes = own_frame(module, past, clip)
            torch.testing.assert_close(state["features"][clip, number, :count], features[:count])
            assert torch.equal(state["boxes"][clip, number, :count], boxes[:count])
            own = state["is_valid"][clip, number].tolist()
            assert own == [True] * count + [False] * (3 - count)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"propagate": "move"}, "propagate must be one of none, replace, center; found 'move'"),
        ({"assignment": "iou"}, "assignment must be one of attention, linking; found 'iou'"),
        ({"value_std": -0.1}, "value_std must be at least 0; found -0.1"),
        ({"width": 40}, "width must be a multiple of group_width=16; found 40"),
        ({"group_width": 12}, "group_width must be a multiple of 8; found 12"),
        ({"advanced_share": 1.5}, "advanced_share must be a share, 0 to 1; found 1.5"),
        ({"advanced_share": -0.5}, "advanced_share must be a share, 0 to 1; found -0.5"),
        ({"layers": 0}, "layers must be at least 1; found 0"),
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


SIZE = torch.tensor([50, 100])  # height, width
OBJECT = [20.0, 10, 40, 30]
MOVED = [25.0, 13, 50, 20]  # the upper left corner by (5, 3)


def target(tracks, boxes=None, crowds=()) -> Target:
    """Objects by track; object t lies at (t, t, t + 10, t + 10) where no boxes are given."""
    boxes = [[t, t, t + 10, t + 10] for t in tracks] if boxes is None else boxes
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        labels=torch.zeros(len(tracks), dtype=torch.int64),
        track_ids=torch.tensor(tracks, dtype=torch.int64),
        iscrowd=torch.tensor([row in crowds for row in range(len(tracks))], dtype=torch.bool),
    )


def followed(boxes, then: Target | None, now: Target | None) -> tuple[list, list]:
    """Boxes afterwards, and which of those before they are; one more is not there."""
    given = torch.tensor([*boxes, OBJECT], dtype=torch.float32)[None]
    is_valid = torch.tensor([[True] * len(boxes) + [False]])
    frame = {"boxes": given, "is_valid": is_valid}
    after = follow_tracks(frame, [then], [now], SIZE[None])
    assert torch.equal(given[0, :-1], torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    (valid,) = after["is_valid"]
    assert not valid[-1]
    return after["boxes"][0, valid].tolist(), valid.nonzero()[:, 0].tolist()


def test_a_box_moves_as_the_upper_left_corner_of_its_object():
    found, _ = followed([[22, 12, 40, 28]], target([6], [OBJECT]), target([6], [MOVED]))
    assert found == [[27, 15, 45, 31]]


@pytest.mark.parametrize(("height", "top"), [(6.0, 13), (5.9, 10)])
def test_a_box_moves_from_an_iou_of_three_tenths(height, top):
    box = [20, 10, 40, 10 + height]  # height / 20 of the object
    found, _ = followed([box], target([6], [OBJECT]), target([6], [MOVED]))
    assert found[0][1] == top


def test_a_box_moves_with_the_object_it_overlaps_most():
    then = target([6, 2], [OBJECT, [22, 10, 42, 30]])
    now = target([2, 6], [[22, 20, 42, 40], [30, 10, 50, 30]])  # 2 down, 6 to the right
    found, _ = followed([[20, 10, 40, 30], [23, 10, 43, 30]], then, now)
    assert found == [[30, 10, 50, 30], [23, 20, 43, 40]]


def test_boxes_stay_whose_track_is_gone_or_unknown():
    boxes = [[20, 10, 40, 30], [60, 10, 80, 30]]
    then = target([6, -1], [OBJECT, [60, 10, 80, 30]])
    now = target([5, -1], [MOVED, [70, 10, 90, 30]])
    assert followed(boxes, then, now) == (boxes, [0, 1])


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (target([]), target([6])),
        (target([6], [OBJECT]), target([])),
        (target([6], [OBJECT], crowds=[0]), target([6], [MOVED])),
        (target([]), target([])),
    ],
)
def test_boxes_stay_where_no_object_is_to_be_followed(then, now):
    assert followed([[20, 10, 40, 30]], then, now) == ([[20, 10, 40, 30]], [0])


def test_a_box_is_clipped_to_the_picture():
    now = target([6], [[-8, 35, 12, 55]])
    found, _ = followed([[22, 12, 42, 30]], target([6], [OBJECT]), now)
    assert found == [[0, 37, 14, 50]]


def test_a_box_of_which_nothing_is_left_is_not_valid():
    then = target([6, 4], [OBJECT, [60, 10, 80, 30]])
    now = target([4, 6], [[61, 10, 81, 30], [120, 10, 140, 30]])
    boxes = [[60, 10, 80, 30], [20, 10, 40, 30], [1, 1, 5, 5]]
    assert followed(boxes, then, now) == ([[61, 10, 81, 30], [1, 1, 5, 5]], [0, 2])


def test_no_boxes_stay_no_boxes():
    assert followed([], target([6], [OBJECT]), target([6], [MOVED])) == ([], [])


@pytest.mark.parametrize("is_known", [(False, True), (True, False), (False, False)])
def test_boxes_stay_where_the_objects_of_a_frame_are_not_known(is_known):
    then = target([6], [OBJECT]) if is_known[0] else None
    now = target([6], [MOVED]) if is_known[1] else None
    assert followed([[20, 10, 40, 30]], then, now) == ([[20, 10, 40, 30]], [0])


def test_boxes_of_a_batch_follow_their_own_tracks_in_their_own_picture():
    box = torch.tensor([[22.0, 12, 40, 28]])
    frame = {"boxes": box.expand(3, 1, 4), "is_valid": torch.ones(3, 1, dtype=torch.bool)}
    then = [target([6], [OBJECT])] * 2 + [None]
    now = [target([6], [MOVED]), target([6], [[18, 8, 38, 28]]), target([6], [MOVED])]
    sizes = torch.tensor([[25, 30], [50, 100], [5, 5]])
    found = follow_tracks(frame, then, now, sizes)
    assert found["boxes"].tolist() == [[[27, 15, 30, 25]], [[20, 10, 38, 26]], box.tolist()]
    assert found["is_valid"].all()


def test_following_needs_a_track_id():
    frame = {"boxes": torch.zeros(1, 1, 4), "is_valid": torch.ones(1, 1, dtype=torch.bool)}
    unknown, nothing = target([-1], [OBJECT]), target([])
    with pytest.raises(DataError, match=r"none of the 2 .* has an id_track"):
        follow_tracks(frame, [unknown], [unknown], SIZE[None])
    follow_tracks(frame, [nothing], [nothing], SIZE[None])
    follow_tracks(frame, [unknown], [target([6], [OBJECT])], SIZE[None])


@pytest.mark.parametrize("propagate", ["none", "replace", "center"])
def test_recalled_boxes_follow_the_tracks_of_the_reference_frames(propagate):
    module = small(propagate=propagate).train()
    past = make_candidates(torch.randn(1, 1, 4, 2, 2), torch.tensor([[[22.0, 12, 40, 28]]]))
    history, nothing = [past, past], target([])
    targets = [[target([6], [OBJECT])], [nothing]]
    state = module.recall(module.begin(1, FRAMES), history, targets, [target([6], [MOVED])])
    moved = [22, 12, 40, 28] if propagate == "none" else [27, 15, 45, 31]
    assert state["boxes"][0, :, 0].tolist() == [moved, [22, 12, 40, 28]]
    assert state["is_valid"][0].tolist() == [[True, False, False]] * 2
