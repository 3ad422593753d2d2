from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from tiny import (
    candidate_fusion_names,
    candidate_fusions_of,
    frame_info,
    random_frames,
    tiny_two_stage,
)
from vodet.detector import VideoDetector
from vodet.encodings import EncodedFrames, FeatureMaps, FeatureSpec, WindowBatch
from vodet.errors import ConfigError, DataError
from vodet.fusion.conv_gru import ConvGRU
from vodet.fusion.mean import MeanFusion
from vodet.fusion.none import NoFusion
from vodet.heads.linking import ProposalLimits
from vodet.streaming import StreamingDetector
from vodet.structures import ClipBatch, ClipLayout, Target, Window

CAUSAL = Window(past=2)


def target(boxes=(), labels=None, tracks=None, iscrowd=None) -> Target:
    count = len(boxes)
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        labels=torch.tensor(labels or [1] * count, dtype=torch.int64),
        track_ids=torch.tensor(tracks or list(range(count)), dtype=torch.int64),
        iscrowd=torch.tensor(iscrowd or [False] * count, dtype=torch.bool),
    )


OBJECTS = target([[4.0, 8, 40, 48], [20, 20, 30, 36]], [1, 2], [5, 7])


def batch_of(targets: list[list[Target]], length: int, history: int = 0) -> ClipBatch:
    """Clips with given targets, the reference frame last, and a history with the same."""
    clips, count = len(targets), length * (1 + history)
    frames = random_frames(clips * count).view(clips, count, 3, 64, 64)
    infos = tuple(
        tuple(frame_info(f"video {clip}", number) for number in range(count))
        for clip in range(clips)
    )
    window, *further = (tuple(range(start, start + length)) for start in range(0, count, length))
    layout = ClipLayout((window,), length - 1, length - 1, history=tuple(further))
    return ClipBatch(frames, infos, tuple(tuple(clip) * (1 + history) for clip in targets), layout)


def predicted(
    detector: VideoDetector, frames: torch.Tensor, length: int
) -> dict[str, torch.Tensor]:
    """What is predicted for the last frame of clips that lie one after the other."""
    encoded = detector.encode(frames)
    windows = WindowBatch.of_clips(encoded, length, length - 1)
    return detector.step(windows, detector.begin(len(windows), encoded))[0]


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize("name", candidate_fusion_names())
def test_every_weight_learns(name: str) -> None:
    detector = tiny_two_stage(candidate_fusions_of(name), CAUSAL).train()
    losses = detector.losses(batch_of([[OBJECTS] * 3] * 2, 3, history=2))
    expected = {"rpn_class", "rpn_box", "class", "box"}
    assert set(losses) == (expected if name == "none" else expected | {"st_class"})
    total(losses).backward()
    without = [n for n, weight in detector.named_parameters() if weight.grad is None]
    assert without == []


# Clips that others stumble over.
NOTHING = target()
CLIPS = {
    "no object": [[NOTHING] * 3],
    "no object beside objects": [[NOTHING] * 3, [OBJECTS] * 3],
    "tracks come and go": [[NOTHING, OBJECTS, target([[4.0, 8, 40, 48]], [1], [9])]],
    "no track ids": [[target([[4.0, 8, 40, 48]], tracks=[-1])] * 3],
    "only a crowd": [[target([[0.0, 0, 64, 64]], iscrowd=[True])] * 3],
    "one clip": [[OBJECTS] * 3],
    "five clips": [[OBJECTS] * 3] * 5,
}


@pytest.mark.parametrize("clips", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("name", ["none", "max", "sltnet"])
def test_any_clips_train(name: str, clips: list[list[Target]]) -> None:
    fusions = candidate_fusions_of(name, *_no_propagation(name))
    detector = tiny_two_stage(fusions, CAUSAL).train()
    losses = detector.losses(batch_of(clips, 3, history=2))
    total(losses).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    for parameter_name, weight in detector.named_parameters():
        assert weight.grad is not None, parameter_name
        assert torch.isfinite(weight.grad).all(), parameter_name


def _no_propagation(name: str) -> tuple[str, ...]:
    return ("model.head.fusion.attention.propagate=none",) if name == "sltnet" else ()


@pytest.mark.parametrize("name", ["none", "max", "sltnet"])
def test_clips_without_any_proposal_train_and_evaluate(name: str) -> None:
    nobody = ProposalLimits(
        pre_nms_top_n=30, post_nms_top_n=20, min_size=1000.0
    )  # no proposal is that large
    detector = tiny_two_stage(
        candidate_fusions_of(name, *_no_propagation(name)),
        CAUSAL,
        train_limits=nobody,
        test_limits=nobody,
    )
    batch = batch_of([[NOTHING] * 3, [target()] * 3], 3, history=2)
    losses = detector.train().losses(batch)
    total(losses).backward()
    assert losses["class"] == 0
    assert losses["box"] == 0
    assert all(weight.grad is not None for weight in detector.parameters())
    with torch.inference_mode():
        for found in detector.eval()(batch):
            assert found["boxes"].shape == (0, 4)


@torch.inference_mode()
def test_items_of_a_batch_of_any_sizes_do_not_meet() -> None:
    detector = tiny_two_stage(candidate_fusions_of("sltnet"), CAUSAL)
    batch = batch_of([[OBJECTS] * 3] * 2, 3)
    small = tuple(replace(info, size=(40, 48), original_size=(40, 48)) for info in batch.infos[1])
    batch = replace(batch, infos=(batch.infos[0], small))
    together = detector(batch)
    for item in range(2):
        own = ClipBatch(batch.frames[[item]], (batch.infos[item],), (), batch.layout)
        (alone,) = detector(own)
        torch.testing.assert_close(alone["scores"], together[item]["scores"], rtol=1e-4, atol=1e-5)
    assert together[1]["boxes"].amax(dim=0).tolist() <= [48, 40, 48, 40]


@torch.inference_mode()
def test_a_baseline_is_a_window_of_one_frame_whatever_the_window() -> None:
    frames = random_frames(3)
    wide, single = tiny_two_stage({}, CAUSAL), tiny_two_stage({}, Window())
    torch.testing.assert_close(predicted(single, frames[2:], 1), predicted(wide, frames, 3))


@torch.inference_mode()
def test_a_map_fusion_changes_what_proposals_and_features_are_made_of() -> None:
    detector = tiny_two_stage({}, CAUSAL, MeanFusion)
    frames = detector.encode(random_frames(3))
    windows = WindowBatch.of_clips(frames, 3, 2)
    found, _ = detector.step(windows, detector.begin(1, frames))
    mean = windows.maps.map(lambda level: level.mean(dim=1))
    alone = EncodedFrames(
        mean, frames.sizes[:1], detector.head.encode(None, frames.sizes[:1], mean)
    )
    expected, _ = detector.head(WindowBatch.of_clips(alone, 1, 0), {})
    torch.testing.assert_close(found, expected)


@torch.inference_mode()
def test_with_a_map_fusion_support_frames_keep_their_own_maps() -> None:
    """The maximum over RoI features of the fused reference and of the support frames."""
    fused, plain = (
        tiny_two_stage(candidate_fusions_of("max"), CAUSAL, fusion)
        for fusion in (MeanFusion, NoFusion)
    )
    same = random_frames(1).expand(3, -1, -1, -1)  # the mean of equal frames is each of them
    for detector in (fused, plain):
        detector.eval()
    torch.testing.assert_close(predicted(fused, same, 3), predicted(plain, same, 3))


@pytest.mark.parametrize("scores", ["both", "spatial", "spatio_temporal"])
@torch.inference_mode()
def test_each_head_alone_and_both(scores: str) -> None:
    detector = tiny_two_stage(candidate_fusions_of("max"), CAUSAL, scores=scores)
    found = predicted(detector, random_frames(3), 3)
    alone = {}
    for head in ("spatial", "spatio_temporal"):
        detector.head.scores = head
        alone[head] = predicted(detector, random_frames(3), 3)["scores"]
    s, st = alone["spatial"], alone["spatio_temporal"]
    assert (s - st).abs().max() > 1e-2
    expected = {"spatial": s, "spatio_temporal": st, "both": s + st * (1 - s)}[scores]
    torch.testing.assert_close(found["scores"], expected)


def frozen_detector(name: str) -> VideoDetector:
    detector = tiny_two_stage(candidate_fusions_of(name), CAUSAL)
    detector.frozen = ("backbone", "pyramid", "head.rpn", "head.box_head")
    return detector.train()


def test_frozen_parts_run_without_gradient_in_evaluation_mode() -> None:
    detector = frozen_detector("sltnet")
    assert not detector.backbone.training
    assert not detector.head.box_head.training
    assert detector.head.st_head.training
    assert detector.head.fusion.training
    encodings = detector.encode(random_frames(2))
    assert not any(tensor.requires_grad for tensor in encodings.tensors())
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    losses = detector.losses(batch_of([[OBJECTS] * 3], 3, history=2))
    assert set(losses) == {"st_class"}
    losses["st_class"].backward()
    for name, weight in detector.named_parameters():
        is_new = name.startswith(("head.st_head", "head.fusion"))
        assert (weight.grad is not None) == is_new, name
    after = detector.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no trainable weights: model\.frozen"):
        frozen_detector("none").losses(batch_of([[OBJECTS] * 3], 3))


class WeightedMean(MeanFusion):
    """The mean of the window, times a weight for each level."""

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__(spec)
        self.weights = nn.Parameter(torch.ones(len(spec.channels)))

    def forward(self, window: FeatureMaps, reference: int) -> FeatureMaps:
        mean = super().forward(window, reference)
        return FeatureMaps(
            tuple(w * level for w, level in zip(self.weights, mean.levels, strict=True))
        )


@pytest.mark.parametrize("name", ["none", "max", "selsa"])
@pytest.mark.parametrize("frozen", [("head",), ("head.rpn", "head.box_head")])
@pytest.mark.parametrize("fusion", [WeightedMean, partial(ConvGRU, hidden=4)])
def test_a_map_fusion_trains_before_a_frozen_head(
    fusion: Callable[..., Any], frozen: tuple[str, ...], name: str
) -> None:
    detector = tiny_two_stage(name, CAUSAL, fusion)
    detector.frozen = ("backbone", "pyramid", *frozen)
    detector.train()
    losses = detector.losses(batch_of([[OBJECTS] * 3] * 2, 3, history=2))
    expected = {"rpn_class", "rpn_box", "class", "box"}
    assert set(losses) == (expected if detector.head.st_head is None else expected | {"st_class"})
    assert all(torch.isfinite(loss) for loss in losses.values())
    total(losses).backward()
    weights = dict(detector.fusion.named_parameters())
    assert weights
    for parameter_name, weight in weights.items():
        assert weight.grad is not None, parameter_name
        assert weight.grad.isfinite().all(), parameter_name
        assert weight.grad.any(), parameter_name
    learning = {n for n, weight in detector.named_parameters() if weight.requires_grad}
    trained = {n for n, weight in detector.named_parameters() if weight.grad is not None}
    assert trained == learning
    heads = ("head.rpn", "head.box_head", *frozen)
    assert not any(n.startswith(("backbone", "pyramid", *heads)) for n in trained)


@pytest.mark.parametrize("name", ["long_term", "sltnet"])
def test_a_head_learns_behind_a_frozen_long_term_attention(name: str) -> None:
    detector = tiny_two_stage(candidate_fusions_of(name), CAUSAL)
    detector.frozen = ("backbone", "pyramid", "head.rpn", "head.box_head", "head.fusion")
    detector.train()
    batch = batch_of([[OBJECTS] * 3] * 2, 3, history=2)
    torch.manual_seed(0)
    losses = detector.losses(batch)
    assert set(losses) == {"st_class"}
    total(losses).backward()
    for parameter_name, weight in detector.named_parameters():
        assert (weight.grad is not None) == parameter_name.startswith("head.st_head")
    # A frozen fusion gives what it gives when it learns.
    detector.frozen = detector.frozen[:-1]
    detector.train()
    torch.manual_seed(0)
    torch.testing.assert_close(losses, detector.losses(batch))


def test_with_a_map_fusion_alone_only_fused_frames_get_proposals() -> None:
    detector = tiny_two_stage({}, Window(past=1, future=1), MeanFusion)
    calls = []
    detector.head.rpn.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    stream = StreamingDetector(detector)
    results = []
    for frame in random_frames(5):
        results += stream.push(frame)
        assert calls == [1] * len(results)
    results += stream.flush()
    assert len(results) == 5
    assert calls == [1] * 5


def test_long_term_attention_needs_a_history_to_train() -> None:
    detector = tiny_two_stage(candidate_fusions_of("long_term"), CAUSAL).train()
    with pytest.raises(ConfigError, match=r"found none: set data\.history\.windows=2 for"):
        detector.losses(batch_of([[OBJECTS] * 3], 3))


@pytest.mark.parametrize("name", ["long_term", "sltnet"])
def test_a_fusion_recalls_with_the_objects_of_the_reference_frames(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = tiny_two_stage(name, CAUSAL).train()
    clips = [[target(), target([[1.0, 1, 9, 9]]), OBJECTS], [OBJECTS, OBJECTS, target()]]
    batch = batch_of(clips, 3, history=2)
    seen: dict[str, Any] = {}

    def recall(state, history, targets, now):
        seen.update(history=history, targets=targets, now=now)
        return state

    monkeypatch.setattr(detector.head.fusion, "recall", recall)
    detector.losses(batch)
    assert [len(past.features) for past in seen["history"]] == [3 if name == "sltnet" else 1] * 2
    assert all(past.boxes.shape[2] == 6 for past in seen["history"])  # keys_per_frame
    own = [clips[0][2], clips[1][2]]
    for found in (*seen["targets"], seen["now"]):
        assert [t["boxes"].tolist() for t in found] == [t["boxes"].tolist() for t in own]


def test_propagation_needs_track_ids() -> None:
    detector = tiny_two_stage(candidate_fusions_of("sltnet"), CAUSAL).train()
    unknown = target([[4.0, 8, 40, 48]], tracks=[-1])
    with pytest.raises(DataError, match=r"none of the \d+ .* has an id_track"):
        detector.losses(batch_of([[unknown] * 3], 3, history=2))


@torch.inference_mode()
def test_attention_behind_linking_knows_where_candidates_were() -> None:
    options = ("propagate=replace", "assignment=linking")
    fusions = [f"model.head.fusion.attention.{option}" for option in options]
    detector = tiny_two_stage(candidate_fusions_of("sltnet", *fusions), CAUSAL)
    seen = []
    attention = detector.head.fusion.members["attention"]
    attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoded = detector.encode(random_frames(3))
    windows = WindowBatch.of_clips(encoded, 3, 2)
    linked = detector.head._candidates(windows.seen_by("head"))
    detector.step(windows, detector.begin(1, encoded))
    assert torch.equal(seen[0].previous_boxes, linked.boxes[:, 1])
    assert torch.equal(seen[0].boxes[:, 0], linked.boxes[:, 2])
    with pytest.raises(ConfigError, match=r"assignment=linking .* window with past >= 1"):
        predicted(detector, random_frames(1), 1)


def test_a_memory_of_another_model_is_refused() -> None:
    detector = tiny_two_stage(candidate_fusions_of("long_term"), Window())
    other = tiny_two_stage(
        candidate_fusions_of("long_term", "model.head.width=32"), Window(), width=32
    )
    with torch.inference_mode():
        frames = [d.encode(random_frames(1)) for d in (other, detector)]
        windows = [WindowBatch.of_clips(own, 1, 0) for own in frames]
        _, memory = other.step(windows[0], other.begin(1, frames[0]))
        with pytest.raises(ConfigError, match=r"another detector: expected 16 .* found 32"):
            detector.step(windows[1], memory)


def test_heads_and_fusions_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="scores must be one of both, spatial, spatio_temporal"):
        tiny_two_stage({}, Window(), scores="temporal")
    with pytest.raises(ConfigError, match=r"scores=spatio_temporal needs .*no candidate fusion"):
        tiny_two_stage({}, Window(), scores="spatio_temporal")
    with pytest.raises(ConfigError, match=r"scores=spatio_temporal needs .*refine=boxes"):
        tiny_two_stage(
            candidate_fusions_of("max"), Window(), scores="spatio_temporal", refine="boxes"
        )
    with pytest.raises(ConfigError, match="refine must be one of scores, boxes; found 'both'"):
        tiny_two_stage({}, Window(), refine="both")


@torch.inference_mode()
def test_two_long_term_attentions_of_a_chain_have_a_state_each() -> None:
    fusions = {
        **candidate_fusions_of("long_term"),  # every second frame, three of them
        "again": candidate_fusions_of(
            "long_term",
            "model.head.fusion.attention.key_frame_interval=1",
            "model.head.fusion.attention.num_key_frames=2",
        )["attention"],
    }
    detector = tiny_two_stage(fusions, Window())
    frames = detector.encode(random_frames(4))
    memory = detector.begin(1, frames)
    kept = []
    for row in range(4):
        windows = WindowBatch.of(frames, torch.tensor([[row]]), 0)
        _, memory = detector.step(windows, memory)
        state = memory.states["head"]
        kept.append([int(state[f"{n}.is_valid"].any(dim=2).sum()) for n in ("attention", "again")])
    assert kept == [[1, 1], [1, 2], [2, 2], [2, 2]]
    assert state["attention.features"].shape == (1, 3, 6, 16)
    assert state["again.features"].shape == (1, 2, 6, 16)
    assert state["attention.processed"].tolist() == state["again.processed"].tolist() == [4]


def test_two_long_term_attentions_of_a_chain_learn() -> None:
    fusions = {
        **candidate_fusions_of("long_term"),
        "again": candidate_fusions_of("long_term")["attention"],
    }
    detector = tiny_two_stage(fusions, CAUSAL).train()
    total(detector.losses(batch_of([[OBJECTS] * 3] * 2, 3, history=2))).backward()
    assert [n for n, weight in detector.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", [name for name in candidate_fusion_names() if name != "none"])
def test_boxes_can_be_refined_by_fused_features(name: str) -> None:
    detector = tiny_two_stage(candidate_fusions_of(name), CAUSAL, refine="boxes").train()
    assert detector.head.st_head is None
    losses = detector.losses(batch_of([[OBJECTS] * 3] * 2, 3, history=2))
    assert set(losses) == {"rpn_class", "rpn_box", "class", "box"}
    total(losses).backward()
    assert [n for n, weight in detector.named_parameters() if weight.grad is None] == []


@torch.inference_mode()
def test_with_refine_boxes_the_one_head_sees_the_fused_features() -> None:
    refined = tiny_two_stage(candidate_fusions_of("max"), CAUSAL, refine="boxes")
    double = tiny_two_stage(candidate_fusions_of("max"), CAUSAL, scores="spatial")
    double.load_state_dict(refined.state_dict(), strict=False)
    same = random_frames(1).expand(3, -1, -1, -1)  # the maximum of equal frames is each of them
    torch.testing.assert_close(predicted(refined, same, 3), predicted(double, same, 3))
    a, b = (predicted(detector, random_frames(3), 3) for detector in (refined, double))
    assert torch.equal(a["is_valid"], b["is_valid"])
    assert (a["scores"] - b["scores"]).abs().max() > 1e-2
    assert (a["boxes"] - b["boxes"]).abs().max() > 1e-2


def test_frames_that_are_not_annotated_are_no_empty_frames() -> None:
    """Support frames of which nothing is known give no RPN loss, and no tubelet is complete."""
    detector = tiny_two_stage(candidate_fusions_of("max"), CAUSAL)
    detector.frozen = ("backbone",)  # batch statistics are of all frames
    detector.train()
    batch = batch_of([[NOTHING, NOTHING, OBJECTS]], 3)
    infos = [replace(info, is_annotated=info.frame_number == 2) for info in batch.infos[0]]
    torch.manual_seed(0)
    losses = detector.losses(replace(batch, infos=(tuple(infos),)))
    torch.manual_seed(0)
    windows = WindowBatch.of_clips(detector.encode(batch.frames[0, 2:]), 1, 0).seen_by("head")
    alone = detector.head.rpn.window_losses(windows, [[OBJECTS]])
    torch.testing.assert_close(losses["rpn_class"], alone["rpn_class"])
