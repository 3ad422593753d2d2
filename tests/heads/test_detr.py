"""The DETR head: per-frame detections, losses, candidates and what they are trained for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tiny import frame_info, fusion_of, random_frames, tiny_detector
from tiny_detr import CONFIGS, config_of, saved, tiny_detr
from vodet.boxes import box_areas, clip_boxes
from vodet.detector import VideoDetector
from vodet.encodings import WindowBatch
from vodet.errors import ConfigError
from vodet.features.backbone import TimmBackbone
from vodet.features.no_backbone import NoBackbone
from vodet.features.pyramid import Identity
from vodet.fusion.none import NoFusion
from vodet.fusion.selsa import SELSA
from vodet.heads.detr import DetrHead
from vodet.structures import ClipBatch, ClipLayout, Detections, Target, Window

SIZE, ORIGINAL = (64, 96), (128, 288)


def target(boxes: list[list[float]], labels: list[int], crowds: int = 0) -> Target:
    """Objects of a frame, the last of which are crowds."""
    count = len(labels)
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        track_ids=torch.full((count,), -1),
        iscrowd=torch.arange(count) >= count - crowds,
    )


def batch_of(targets: list[Target | None], length: int = 1) -> ClipBatch:
    """Clips of random frames; None for clips that are not annotated."""
    infos = [replace(frame_info(size=SIZE), is_annotated=own is not None) for own in targets]
    return ClipBatch(
        frames=random_frames(len(targets) * length, SIZE).unflatten(0, (-1, length)),
        infos=tuple((info,) * length for info in infos),
        targets=tuple((own or target([], []),) * length for own in targets),
        layout=ClipLayout.of_window(length, length // 2),
    )


@torch.inference_mode()
def detections_of(detector: VideoDetector, frames: Tensor) -> list[Detections]:
    encoded = detector.encode(frames)
    windows = WindowBatch.of_clips(encoded, 1, 0)
    outputs, _ = detector.step(windows, detector.begin(len(frames), encoded))
    return detector.decode(outputs, [(SIZE, ORIGINAL)] * len(frames))


@pytest.mark.parametrize("name", CONFIGS)
def test_detections_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, name)
    options = {"pretrained": str(folder), "config": {}, "num_candidates": 20, "max_detections": 20}
    head = tiny_detr("none", Window(), **options, lively=False)
    frames = random_frames(3, size=SIZE)

    found = detections_of(head, frames)

    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModelForObjectDetection.from_pretrained(folder).eval()
    inputs = processor(list(frames), do_resize=False, do_pad=False, return_tensors="pt")
    with torch.no_grad():
        outputs = model(pixel_values=inputs["pixel_values"])
    expected = processor.post_process_object_detection(outputs, 0.0, [ORIGINAL] * 3)
    for own, theirs in zip(found, expected, strict=True):
        boxes = clip_boxes(theirs["boxes"][:20], ORIGINAL)
        kept = box_areas(boxes) > 0
        assert kept.sum() > 10
        torch.testing.assert_close(own["scores"], theirs["scores"][:20][kept], rtol=0, atol=1e-5)
        torch.testing.assert_close(own["boxes"], boxes[kept], rtol=1e-5, atol=1e-3)
        assert torch.equal(own["labels"], theirs["labels"][:20][kept])


OBJECTS = target([[10, 10, 40, 40], [50, 20, 90, 60]], [1, 2])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_detector_learns_from_the_librarys_own_loss(name: str) -> None:
    detector = tiny_detr("none", Window(), name).train()
    batch = batch_of([OBJECTS, target([], [])])

    torch.manual_seed(3)
    losses = detector.losses(batch)

    model = detector.head.model
    pixels = (batch.frames[:, 0] - model.mean) / model.std
    sides = torch.tensor([96, 64, 96, 64])
    centered = torch.tensor([[25, 25, 30, 30], [70, 40, 40, 40]]) / sides
    labels = [
        {"class_labels": torch.tensor([1, 2]), "boxes": centered},
        {"class_labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)},
    ]
    torch.manual_seed(3)  # of the denoising
    expected = model.net(pixel_values=pixels, labels=labels).loss
    assert losses.keys() == {"detector"}
    torch.testing.assert_close(losses["detector"], expected, rtol=1e-4, atol=1e-4)
    losses["detector"].backward()
    learning = [n for n, w in model.named_parameters() if w.grad is not None and w.grad.any()]
    assert len(learning) > 40


def test_crowds_and_frames_without_annotations_are_no_objects_of_the_loss() -> None:
    detector = tiny_detr("none", Window(), "deformable_detr", config=deterministic()).train()
    crowd = target([[10, 10, 40, 40], [50, 20, 90, 60], [0, 0, 20, 20]], [1, 2, 0], crowds=1)
    expected = detector.losses(batch_of([OBJECTS]))["detector"]
    for targets in ([crowd], [OBJECTS, None]):
        torch.testing.assert_close(detector.losses(batch_of(targets))["detector"], expected)
    loss = detector.losses(batch_of([None]))["detector"]
    loss.backward()
    assert loss == 0
    assert all(w.grad is not None for w in detector.parameters() if w.requires_grad)


def deterministic() -> dict[str, Any]:
    """A config of a detector whose loss has no random numbers."""
    return config_of("deformable_detr", dropout=0.0)


def test_a_frozen_detector_stays_and_the_candidate_fusion_learns() -> None:
    detector = tiny_detr("selsa", Window(past=1, future=1), frozen=("head.model",)).train()
    assert not detector.head.model.net.training
    losses = detector.losses(batch_of([OBJECTS, target([], []), None], length=3))
    assert losses.keys() == {"st_class", "st_box"}
    sum(losses.values()).backward()
    learning = {n for n, w in detector.named_parameters() if w.grad is not None and w.grad.any()}
    assert {n.split(".")[1] for n in learning} == {"fusion", "st_classifier", "st_regressor"}


def test_without_a_frozen_detector_both_learn_and_nothing_goes_from_one_to_the_other() -> None:
    detector = tiny_detr("selsa", Window(past=1)).train()
    modes = {name: part.training for name, part in detector.named_modules()}
    losses = detector.losses(batch_of([OBJECTS], length=2))
    assert losses.keys() == {"detector", "st_class", "st_box"}
    (losses["st_class"] + losses["st_box"]).backward()
    assert all(weight.grad is None for weight in detector.head.model.parameters())
    assert detector.head.st_classifier.weight.grad.any()
    losses["detector"].backward()
    assert any(weight.grad is not None for weight in detector.head.model.parameters())
    assert {name: part.training for name, part in detector.named_modules()} == modes


def test_boxes_and_losses_of_the_detector_are_float32_under_autocast() -> None:
    detector = tiny_detr("selsa", Window(), "deformable_detr", config=deterministic()).train()
    batch = batch_of([OBJECTS])
    expected, boxes = detector.losses(batch), detector.encode(batch.frames[:, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, own = detector.losses(batch), detector.encode(batch.frames[:, 0])
    assert torch.equal(own.extras["head.boxes"], boxes.extras["head.boxes"])
    assert torch.equal(found["detector"], expected["detector"])


def test_everything_frozen_is_refused() -> None:
    detector = tiny_detr("none", Window(), frozen=("head.model",)).train()
    with pytest.raises(ConfigError, match=r"model\.frozen lists all parts"):
        detector.losses(batch_of([OBJECTS]))


def test_duplicates_are_negative_and_candidates_in_crowds_are_not_trained() -> None:
    detector = tiny_detr("selsa", Window())
    with torch.no_grad():
        encoded = detector.encode(random_frames(2, SIZE))
    windows = WindowBatch.of_clips(encoded, 1, 0).seen_by("head")
    candidates = detector.head._candidates(windows)
    boxes = candidates.boxes[:, 0]
    boxes[0, 1] = boxes[0, 0] = torch.tensor([10.0, 10.0, 40.0, 40.0])  # the same object twice
    boxes[0, 2:] = torch.tensor([50.0, 50.0, 90.0, 60.0])  # far away
    boxes[0, 3] = torch.tensor([2.0, 2.0, 8.0, 8.0])  # in the crowd
    objects = target([[0, 0, 9, 9], [10, 10, 40, 41]], [0, 1])
    objects["iscrowd"][0] = True
    wanted = detector.head.candidate_targets(candidates, windows.current, [objects, None])
    assert wanted.has_object.sum() == 1
    (row,) = wanted.has_object[0].nonzero()[:, 0]
    scores = windows.current.extra("class_scores")[0, :2, 1]
    assert row == scores.argmax()
    assert wanted.scores[0, row].tolist() == [0, 1, 0]
    assert wanted.scores.sum() == 1
    assert wanted.objects[0, row].tolist() == [10, 10, 40, 41]
    assert wanted.is_trained[0].tolist() == [n != 3 for n in range(12)]
    assert not wanted.is_trained[1].any()


@torch.inference_mode()
def test_scores_are_joined_with_those_of_the_fused_features() -> None:
    both = tiny_detr("selsa", Window(), refine="scores")
    alone = tiny_detr("selsa", Window(), refine="scores", scores="spatio_temporal")
    alone.load_state_dict(both.state_dict())
    encoded = both.encode(random_frames(1, SIZE))
    windows, memory = WindowBatch.of_clips(encoded, 1, 0), both.begin(1, encoded)
    p, p_st = (own.step(windows, memory)[0]["scores"] for own in (both, alone))
    p_s = encoded.extras["head.class_scores"]
    torch.testing.assert_close(p, p_s + p_st * (1 - p_s))
    assert (p_st - p_s).abs().max() > 1e-2


def test_a_head_and_a_backbone_that_do_not_fit_are_refused() -> None:
    detector = tiny_detector(fusion_of("none"), Window())
    head = partial(DetrHead, config=config_of("rt_detr_v2"), width=16)
    build = partial(
        VideoDetector,
        pyramid=Identity,
        fusion=NoFusion,
        window=Window(),
        class_names=("a",),
        resize=detector.resize,
    )
    with pytest.raises(ConfigError, match=r"DetrHead needs model/backbone=none: found TimmBackb"):
        build(TimmBackbone("test_resnet"), head=head)
    from tiny import tiny_two_stage

    with pytest.raises(ConfigError, match=r"needs a backbone.*: found NoBackbone"):
        build(NoBackbone(), head=lambda spec, classes: tiny_two_stage("none", Window()).head)
    with pytest.raises(ConfigError, match=r"compile_encoder=true"):
        NoBackbone().compile()


def test_frames_of_a_size_that_the_detector_does_not_take_are_refused() -> None:
    detector = tiny_detr("none", Window())
    with pytest.raises(ConfigError, match=r"RTDetrV2.*50 x 70 .*data/input=square_640"):
        detector.encode(random_frames(1, (50, 70)))


def test_more_candidates_than_queries_are_refused() -> None:
    detector = tiny_detr("none", Window(), num_candidates=21)
    with pytest.raises(ConfigError, match=r"num_candidates must be at most 20,.*found 21"):
        detector.encode(random_frames(1, SIZE))


def test_a_detector_with_a_softmax_is_refused() -> None:
    config = {
        "model_type": "yolos",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": [64, 96],
        "num_detection_tokens": 20,
    }
    detector = tiny_detr("none", Window(), config=config, lively=False)
    with pytest.raises(ConfigError, match=r"Yolos.* expected 3 class scores.* found 4 and 16"):
        detector.encode(random_frames(1, SIZE))


def test_a_fusion_that_wants_linked_candidates_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"linked.*DetrHead.*model/head=two_stage"):
        tiny_detr("max", Window())


def test_queries_of_another_width_are_converted_for_the_fusion() -> None:
    fusion = {"selsa": partial(SELSA, width=8, heads=2, keys_per_frame=4)}
    detector = tiny_detr(fusion, Window(), width=8).train()
    losses = detector.losses(batch_of([OBJECTS]))
    losses["st_class"].backward()
    assert detector.head.projection.weight.shape == (8, 16)
    assert detector.head.projection.weight.grad.any()
