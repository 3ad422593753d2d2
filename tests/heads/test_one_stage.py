from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from heads.test_two_stage import CAUSAL, CLIPS, NOTHING, OBJECTS, batch_of, predicted, target, total
from tiny import candidate_fusions_of, random_frames, tiny_one_stage, unlinked_fusion_names
from vodet.detector import VideoDetector
from vodet.encodings import Candidates, Selection
from vodet.errors import ConfigError
from vodet.heads.matching import BACKGROUND, IGNORED
from vodet.heads.one_stage_targets import candidate_targets, cell_losses
from vodet.structures import Window

BASE = {"class", "objectness", "iou"}
NEW = {"none": set(), "yolov_pp": {"st_class", "st_objectness"}, "selsa": {"st_class", "st_box"}}


@pytest.mark.parametrize("name", unlinked_fusion_names())
def test_every_weight_learns(name: str) -> None:
    detector = tiny_one_stage(name, CAUSAL).train()
    losses = detector.losses(batch_of([[OBJECTS] * 3] * 2, 3, history=2))
    assert set(losses) == BASE | NEW.get(name, {"st_class"})
    total(losses).backward()
    assert [n for n, weight in detector.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("clips", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("name", ["none", "yolov_pp"])
def test_any_clips_train(name: str, clips: list[list[Any]]) -> None:
    detector = tiny_one_stage(name, CAUSAL).train()
    losses = detector.losses(batch_of(clips, 3))
    total(losses).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    for parameter_name, weight in detector.named_parameters():
        assert weight.grad is not None, parameter_name
        assert torch.isfinite(weight.grad).all(), parameter_name


def test_frames_without_annotations_have_no_loss() -> None:
    detector = tiny_one_stage("yolov_pp", CAUSAL).train()
    unknown = batch_of([[OBJECTS] * 3], 3)
    infos = tuple(replace(info, is_annotated=False) for info in unknown.infos[0])
    crowd = target([[0.0, 0, 64, 64]], iscrowd=[True])
    for batch in (replace(unknown, infos=(infos,)), batch_of([[crowd] * 3], 3)):
        losses = detector.losses(batch)
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        assert values == dict.fromkeys(losses, 0.0)
        total(losses).backward()
        assert all(weight.grad is not None for weight in detector.parameters())


def frozen_detector(name: str) -> VideoDetector:
    detector = tiny_one_stage(name, CAUSAL)
    detector.frozen = ("backbone", "pyramid", "head.base")
    return detector.train()


def test_a_second_phase_leaves_the_frozen_detector_as_it_is() -> None:
    detector = frozen_detector("yolov_pp")
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    losses = detector.losses(batch_of([[OBJECTS] * 3], 3))
    assert set(losses) == {"st_class", "st_objectness"}
    total(losses).backward()
    new = ("head.class_features", "head.fusion", "head.st_")
    for name, weight in detector.named_parameters():
        assert (weight.grad is not None) == name.startswith(new), name
    for name, value in detector.state_dict().items():
        assert name.startswith(new) or torch.equal(value, before[name]), name


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"model\.frozen lists all parts"):
        frozen_detector("none").losses(batch_of([[OBJECTS] * 3], 3))


@pytest.mark.parametrize("name", ["max", "adaptive", "sltnet"])
def test_linked_candidates_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"linked.*OneStageHead.*model/head=two_stage"):
        tiny_one_stage(candidate_fusions_of(name), CAUSAL)


@pytest.mark.parametrize("options", [{"num_candidates": 0}, {"width": 0}, {"pre_nms_top_n": -1}])
def test_numbers_that_are_not_positive_are_refused(options: dict[str, int]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ConfigError, match=f"OneStageHead: .*at least 1.*{name}={value}"):
        tiny_one_stage("none", CAUSAL, **options)


def test_losses_by_hand() -> None:
    outputs = {
        "cell_boxes": torch.tensor([[[0.0, 0, 10, 10], [0, 0, 9, 9], [0, 0, 9, 9]]]),
        "objectness": torch.zeros(1, 3),
        "class_logits": torch.zeros(1, 3, 2),
    }
    matched = torch.tensor([[1, BACKGROUND, IGNORED]])
    objects = target([[50.0, 50, 60, 60], [0, 0, 10, 20]], [0, 1])  # an IoU of 0.5
    losses = cell_losses(outputs, matched, [objects])
    assert losses["iou"] == 1 - 0.5**2
    assert losses["objectness"] == pytest.approx(2 * math.log(2))
    assert losses["class"] == pytest.approx(2 * math.log(2))
    outputs["class_logits"][0, 0] = torch.tensor([-1.0, 2.0])
    p = torch.tensor([-1.0, 2.0]).sigmoid()
    expected = -(1 - p[0]).log() - (p[1].log() + (1 - p[1]).log()) / 2
    torch.testing.assert_close(cell_losses(outputs, matched, [objects])["class"], expected)


def candidates_at(boxes: list[list[float]], is_valid: list[bool] | None = None) -> Candidates:
    count = len(boxes)
    return Candidates(
        features=(torch.zeros(1, count, 1, 1, 1),),
        boxes=torch.tensor(boxes).view(1, 1, count, 4),
        scores=torch.zeros(1, 1, count),
        is_valid=torch.tensor(is_valid or [True] * count).view(1, 1, count),
        sizes=torch.tensor([[64, 64]]),
        reference=0,
        linked=False,
        extras={},
    )


def test_targets_of_candidates_by_hand() -> None:
    objects = target([[0.0, 0, 20, 20], [40, 40, 60, 60]], [2, 0])
    # Of the cell's object; of the object with an IoU of 0.7; of nobody at 0.5; in a crowd; padding.
    boxes = [[0.0, 0, 20, 10], [40, 40, 60, 54], [40, 40, 60, 50], [0, 0, 2, 2], [0, 0, 20, 20]]
    matched = torch.tensor([[0, BACKGROUND, BACKGROUND, IGNORED, 0]])
    candidates = candidates_at(boxes, [True] * 4 + [False])
    found = candidate_targets(candidates, matched, [objects], 3, True)
    assert found.has_object.tolist() == [[True, True, False, False, False]]
    assert found.is_judged.tolist() == [[True, True, True, False, False]]
    expected = torch.zeros(5, 3)
    expected[0, 2], expected[1, 0] = 0.5, 0.7
    torch.testing.assert_close(found.scores[0], expected)
    assert found.objects[0, 1].tolist() == [40, 40, 60, 60]
    strict = candidate_targets(candidates, matched, [objects], 3, False)
    assert strict.has_object.tolist() == [[True, False, False, False, False]]
    assert strict.is_judged.tolist() == found.is_judged.tolist()


@torch.no_grad()
def dense(detector: VideoDetector, frames: Tensor) -> dict[str, Tensor]:
    """The outputs for all cells, which the head keeps in training."""
    with torch.enable_grad():
        extras = detector.encode(frames).extras
    return {name.removeprefix("head."): value.detach() for name, value in extras.items()}


def iou_matrix(boxes: Tensor) -> Tensor:
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return shared / (areas[:, None] + areas[None] - shared)


def selected(cells: dict[str, Tensor], pre_nms_top_n: int, iou: float, count: int) -> list[int]:
    """The candidates of one frame, one after the other."""
    p = cells["class_logits"][0].sigmoid() * cells["objectness"][0].sigmoid().unsqueeze(1)
    scores, labels = p.max(dim=1)
    best = cells["objectness"][0].argsort(descending=True)[:pre_nms_top_n].tolist()
    overlap = iou_matrix(cells["cell_boxes"][0])
    kept: list[int] = []
    for cell in sorted(best, key=lambda cell: -float(scores[cell])):
        rivals = [other for other in kept if labels[other] == labels[cell]]
        if all(overlap[cell, other] <= iou for other in rivals):
            kept.append(cell)
    return kept[:count]


def test_candidates_are_the_best_cells_after_suppression() -> None:
    detector = tiny_one_stage("yolov", Window(), candidate_nms_iou=0.3)
    cells = dense(detector, random_frames(1))
    expected = selected(cells, 60, 0.3, 20)
    is_valid = cells["is_valid"][0]
    assert cells["rows"][0][is_valid].tolist() == expected
    assert is_valid.tolist() == [True] * len(expected) + [False] * (20 - len(expected))
    assert expected != selected(cells, 60, 1.0, 20)
    torch.testing.assert_close(cells["boxes"][0, 0], cells["cell_boxes"][0, expected[0]])
    factors = torch.stack(
        (
            cells["class_logits"][0, expected].amax(dim=1).sigmoid(),
            cells["objectness"][0, expected].sigmoid(),
        ),
        dim=1,
    )
    torch.testing.assert_close(cells["confidences"][0][is_valid], factors)
    torch.testing.assert_close(
        cells["scores"][0][is_valid].sigmoid(), factors.prod(dim=1), rtol=1e-4, atol=1e-5
    )


def test_without_suppression_candidates_are_the_cells_with_the_best_scores() -> None:
    detector = tiny_one_stage("yolov", Window(), candidate_nms_iou=None)
    cells = dense(detector, random_frames(1))
    p = cells["class_logits"][0].sigmoid() * cells["objectness"][0].sigmoid().unsqueeze(1)
    assert cells["rows"][0].tolist() == p.amax(dim=1).argsort(descending=True)[:20].tolist()


@torch.no_grad()
def test_features_are_of_both_branches_at_the_cell() -> None:
    detector = tiny_one_stage("yolov", Window())
    frames = random_frames(2)
    maps = detector.pyramid(detector.backbone(frames))
    cells = dense(detector, frames)
    found, rows = cells["features"][1, :, :, 0, 0], cells["rows"][1]
    for place, row in enumerate(rows.tolist()):
        level, cell = (0, row) if row < 256 else (1, row - 256)
        head, x = detector.head.base[level], maps.levels[level][1:]
        stem = head.stem(x)
        branches = detector.head.class_features[level](stem), head.box_branch(stem)
        expected = torch.cat([branch.flatten(2)[0, :, cell] for branch in branches])
        torch.testing.assert_close(found[place], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["none", "yolov"])
def test_more_candidates_than_cells_are_all_cells(name: str) -> None:
    detector = tiny_one_stage(
        name, Window(), num_candidates=5000, pre_nms_top_n=5000, candidate_nms_iou=None
    )
    cells = dense(detector, random_frames(1))
    assert sorted(cells["rows"][0].tolist()) == list(range(256 + 64))
    assert cells["is_valid"].all()


@torch.inference_mode()
def test_candidates_are_in_the_picture_not_in_the_padding() -> None:
    detector = tiny_one_stage("none", Window(), pre_nms_top_n=5000)
    encoded = detector.encode(random_frames(1), torch.tensor([[40, 48]]))
    assert int(encoded.extras["head.is_valid"].sum()) == 10 * 12 + 5 * 6


@torch.inference_mode()
def test_without_a_fusion_it_is_the_detector_of_single_frames() -> None:
    detector = tiny_one_stage("none", CAUSAL, pre_nms_top_n=5000)
    frames = random_frames(3)
    found = predicted(detector, frames, 3)
    cells = dense(detector, frames[2:])
    p = cells["class_logits"].sigmoid() * cells["objectness"].sigmoid().unsqueeze(2)
    torch.testing.assert_close(found["scores"][0], p[0, cells["rows"][0]])
    (detections,) = detector.head.decode(found)
    assert len(detections["scores"]) > 10
    for label in range(3):
        own = detections["boxes"][detections["labels"] == label]
        assert (iou_matrix(own).triu(1) <= 0.5 + 1e-5).all()
    assert len(detections["labels"].unique()) > 1
    best = p.amax(dim=1)[0]
    torch.testing.assert_close(detections["scores"][0], best.max())


@pytest.mark.parametrize("scores", ["both", "spatio_temporal"])
@pytest.mark.parametrize("name", ["yolov", "yolov_pp"])
@torch.inference_mode()
def test_scores_are_objectness_times_the_new_class_scores(name: str, scores: str) -> None:
    detector = tiny_one_stage(name, CAUSAL, scores=scores)
    encoded = detector.encode(random_frames(3))
    current = Selection(encoded.seen_by("head"), torch.tensor([2]))
    fused: list[Tensor] = []
    detector.head.fusion.register_forward_hook(
        lambda _, __, output: fused.append(output[0].features[0].flatten(2))
    )
    found = predicted(detector, random_frames(3), 3)["scores"]
    objectness = current.extra("confidences")[..., 1:]
    features = fused[0]
    if name == "yolov_pp":
        features, of_boxes = features.chunk(2, dim=2)
        objectness = detector.head.st_objectness(of_boxes).sigmoid()
    expected = objectness * detector.head.st_classifier(features).sigmoid()
    if scores == "both":
        base = current.extra("class_scores")
        expected = base + expected * (1 - base)
    torch.testing.assert_close(found, expected)


def test_an_empty_frame_has_no_positive_cell() -> None:
    detector = tiny_one_stage("none", CAUSAL).train()
    losses = detector.losses(batch_of([[NOTHING] * 3], 3))
    assert losses["class"] == 0
    assert losses["iou"] == 0
    assert losses["objectness"] > 0
