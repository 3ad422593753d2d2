from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tiny import frame_info, random_frames, roi_fusion_names, roi_fusions_of, tiny_two_stage
from vodet.detector import VideoDetector
from vodet.encodings import TemporalMemory, Windows
from vodet.errors import ConfigError, DataError
from vodet.fusion.mean import MeanFusion
from vodet.fusion.none import NoFusion
from vodet.heads.linking import ProposalLimits
from vodet.structures import ClipBatch, Target, Window

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


def batch_of(
    targets: list[list[Target]], length: int, memory_windows: int = 0, seed: int = 0
) -> ClipBatch:
    """Clips with given targets, the reference frame last, and memory windows with the same."""
    clips = len(targets)
    frames = random_frames(clips * length, seed=seed).view(clips, length, 3, 64, 64)
    infos = tuple(
        tuple(frame_info(f"video {clip}", number) for number in range(length))
        for clip in range(clips)
    )
    batch = ClipBatch(frames, infos, tuple(tuple(clip) for clip in targets), length - 1)
    windows = tuple(batch_of(targets, length, seed=seed + 1 + i) for i in range(memory_windows))
    return replace(batch, memory_windows=windows)


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize("name", roi_fusion_names())
def test_every_weight_learns(name: str) -> None:
    detector = tiny_two_stage(roi_fusions_of(name), CAUSAL).train()
    losses = detector.losses(batch_of([[OBJECTS] * 3] * 2, 3, memory_windows=2))
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
@pytest.mark.parametrize("name", ["none", "max", "selsa", "sltnet"])
def test_any_clips_train(name: str, clips: list[list[Target]]) -> None:
    fusions = roi_fusions_of(name, *_no_propagation(name))
    detector = tiny_two_stage(fusions, CAUSAL).train()
    losses = detector.losses(batch_of(clips, 3, memory_windows=2))
    total(losses).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    for parameter_name, weight in detector.named_parameters():
        assert weight.grad is not None, parameter_name
        assert torch.isfinite(weight.grad).all(), parameter_name


def _no_propagation(name: str) -> tuple[str, ...]:
    return ("model.head.roi_fusion.attention.propagate=none",) if name == "sltnet" else ()


@pytest.mark.parametrize("name", ["none", "max", "selsa", "sltnet"])
def test_clips_without_any_proposal_train_and_evaluate(name: str) -> None:
    nobody = ProposalLimits(per_level=30, total=20, min_size=1000.0)  # no proposal is that large
    detector = tiny_two_stage(
        roi_fusions_of(name, *_no_propagation(name)),
        CAUSAL,
        train_limits=nobody,
        test_limits=nobody,
    )
    batch = batch_of([[NOTHING] * 3, [target()] * 3], 3, memory_windows=2)
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
    detector = tiny_two_stage(roi_fusions_of("sltnet"), CAUSAL)
    batch = batch_of([[OBJECTS] * 3] * 2, 3)
    small = tuple(replace(info, size=(40, 48), original_size=(40, 48)) for info in batch.infos[1])
    batch = replace(batch, infos=(batch.infos[0], small))
    together = detector(batch)
    for item in range(2):
        own = ClipBatch(batch.frames[[item]], (batch.infos[item],), (), batch.reference)
        (alone,) = detector(own)
        torch.testing.assert_close(alone["scores"], together[item]["scores"], rtol=1e-4, atol=1e-5)
    assert together[1]["boxes"].amax(dim=0).tolist() <= [48, 40, 48, 40]


@torch.inference_mode()
def test_a_baseline_is_a_window_of_one_frame_whatever_the_window() -> None:
    frames = random_frames(3)
    wide, single = tiny_two_stage({}, CAUSAL), tiny_two_stage({}, Window())
    one, _ = single.step(Windows.of_clips(single.encode(frames[2:]), 1, 0), [TemporalMemory()])
    other, _ = wide.step(Windows.of_clips(wide.encode(frames), 3, 2), [TemporalMemory()])
    torch.testing.assert_close(one, other)


@torch.inference_mode()
def test_a_map_fusion_changes_what_proposals_and_features_are_made_of() -> None:
    detector = tiny_two_stage({}, CAUSAL, MeanFusion)
    encodings = detector.encode(random_frames(3))
    windows = Windows.of_clips(encodings, 3, 2)
    found, _ = detector.step(windows, [TemporalMemory()])
    mean = windows.maps.map(lambda level: level.mean(dim=1))
    alone = replace(encodings, maps=mean, extras=detector.head.encode(mean))
    alone = replace(alone, sizes=encodings.sizes[:1])
    expected, _ = detector.head(Windows.of_clips(alone, 1, 0), [TemporalMemory()])
    torch.testing.assert_close(found, expected)


@torch.inference_mode()
def test_with_a_map_fusion_support_frames_keep_their_own_maps() -> None:
    """The maximum over RoI features of the fused reference and of the support frames."""
    fused, plain = (
        tiny_two_stage(roi_fusions_of("max"), CAUSAL, fusion) for fusion in (MeanFusion, NoFusion)
    )
    same = random_frames(1).expand(3, -1, -1, -1)  # the mean of equal frames is each of them
    for detector in (fused, plain):
        detector.eval()
    (a, _), (b, _) = (
        detector.step(Windows.of_clips(detector.encode(same), 3, 2), [TemporalMemory()])
        for detector in (fused, plain)
    )
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("scores", ["both", "spatial", "spatio_temporal"])
@torch.inference_mode()
def test_each_head_alone_and_both(scores: str) -> None:
    detector = tiny_two_stage(roi_fusions_of("max"), CAUSAL, scores=scores)
    windows = Windows.of_clips(detector.encode(random_frames(3)), 3, 2)
    found, _ = detector.step(windows, [TemporalMemory()])
    alone = {}
    for head in ("spatial", "spatio_temporal"):
        detector.head.scores = head
        alone[head] = detector.step(windows, [TemporalMemory()])[0]["scores"]
    s, st = alone["spatial"], alone["spatio_temporal"]
    assert (s - st).abs().max() > 1e-2
    expected = {"spatial": s, "spatio_temporal": st, "both": s + st * (1 - s)}[scores]
    torch.testing.assert_close(found["scores"], expected)


def frozen_detector(name: str) -> VideoDetector:
    detector = tiny_two_stage(roi_fusions_of(name), CAUSAL)
    detector.frozen = ("backbone", "pyramid", "head.rpn", "head.box_head")
    return detector.train()


def test_frozen_parts_run_without_gradient_in_evaluation_mode() -> None:
    detector = frozen_detector("sltnet")
    assert not detector.backbone.training
    assert not detector.head.box_head.training
    assert detector.head.st_head.fusions.training
    encodings = detector.encode(random_frames(2))
    assert not any(tensor.requires_grad for tensor in encodings.tensors())
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    losses = detector.losses(batch_of([[OBJECTS] * 3], 3, memory_windows=2))
    assert set(losses) == {"st_class"}
    losses["st_class"].backward()
    for name, weight in detector.named_parameters():
        is_new = name.startswith("head.st_head")
        assert (weight.grad is not None) == is_new, name
    after = detector.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ConfigError, match="All parts of the head are frozen"):
        frozen_detector("none").losses(batch_of([[OBJECTS] * 3], 3))


def test_long_term_attention_needs_memory_windows_to_train() -> None:
    detector = tiny_two_stage(roi_fusions_of("long_term"), CAUSAL).train()
    with pytest.raises(ConfigError, match=r"found none: set data\.memory_windows=2"):
        detector.losses(batch_of([[OBJECTS] * 3], 3))


def test_propagation_needs_track_ids() -> None:
    detector = tiny_two_stage(roi_fusions_of("sltnet"), CAUSAL).train()
    unknown = target([[4.0, 8, 40, 48]], tracks=[-1])
    with pytest.raises(DataError, match=r"none of \d+ in this batch has an id_track"):
        detector.losses(batch_of([[unknown] * 3], 3, memory_windows=2))


def test_a_memory_of_another_model_is_refused() -> None:
    detector = tiny_two_stage(roi_fusions_of("long_term"), Window())
    other = tiny_two_stage(roi_fusions_of("long_term", "model.head.width=32"), Window(), width=32)
    with torch.inference_mode():
        encodings = [d.encode(random_frames(1)) for d in (other, detector)]
        _, memories = other.step(Windows.of_clips(encodings[0], 1, 0), [TemporalMemory()])
        with pytest.raises(ConfigError, match=r"another detector: expected 16 .* found 32"):
            detector.step(Windows.of_clips(encodings[1], 1, 0), memories)


def test_heads_and_fusions_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="scores must be one of both, spatial, spatio_temporal"):
        tiny_two_stage({}, Window(), scores="temporal")
    with pytest.raises(ConfigError, match="scores=spatio_temporal needs a RoI fusion"):
        tiny_two_stage({}, Window(), scores="spatio_temporal")
    twice = {**roi_fusions_of("selsa"), "again": roi_fusions_of("long_term")["attention"]}
    with pytest.raises(ConfigError, match=r"At most one RoI fusion .* \['attention', 'again'\]"):
        tiny_two_stage(twice, Window())


def test_frames_that_are_not_annotated_are_no_empty_frames() -> None:
    """Support frames of which nothing is known give no RPN loss, and no tubelet is complete."""
    detector = tiny_two_stage(roi_fusions_of("max"), CAUSAL)
    detector.frozen = ("backbone",)  # batch statistics are of all frames
    detector.train()
    batch = batch_of([[NOTHING, NOTHING, OBJECTS]], 3)
    infos = [replace(info, is_annotated=info.frame_number == 2) for info in batch.infos[0]]
    torch.manual_seed(0)
    losses = detector.losses(replace(batch, infos=(tuple(infos),)))
    torch.manual_seed(0)
    encodings = detector.encode(batch.frames[0, 2:])
    alone = detector.head.rpn.window_losses(Windows.of_clips(encodings, 1, 0), [[OBJECTS]])
    torch.testing.assert_close(losses["rpn_class"], alone["rpn_class"])
