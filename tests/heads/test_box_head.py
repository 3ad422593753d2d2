from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead

from recipe import REFERENCE
from vodet.boxes import clip_boxes
from vodet.encodings import CandidateSpec
from vodet.heads import box_head
from vodet.heads.box_head import BoxHead, RoILayers, class_boxes, class_loss, joined_scores
from vodet.structures import Detections, without_padding

SPEC = CandidateSpec(2, 3)


def detections_of(scores: torch.Tensor, boxes: torch.Tensor, *limits: float) -> Detections:
    """Those of a single frame, all of whose candidates are there."""
    is_valid = torch.ones(1, len(scores), dtype=torch.bool)
    found = box_head.detections_of(scores[None], boxes[None], is_valid, *limits)
    (own,) = without_padding(found)
    return own


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / "double_head.npz") as file:
        return {name: torch.as_tensor(file[name]) for name in file.files}


def test_scores_and_boxes_of_the_double_head_agree_with_the_reference(reference):
    scores = joined_scores(reference["ref_logits"], reference["st_logits"])
    torch.testing.assert_close(scores, reference["out_probs"], rtol=1e-5, atol=1e-7)
    boxes = class_boxes(reference["deltas"].unflatten(1, (5, 4)), reference["proposals"])
    expected = reference["out_decoded_boxes"]
    torch.testing.assert_close(boxes.flatten(1), expected, rtol=1e-5, atol=1e-4)


def test_detections_of_the_double_head_agree_with_the_reference(reference):
    boxes = reference["out_decoded_boxes"].unflatten(1, (5, 4))
    clipped = clip_boxes(boxes, (200, 300))
    found = detections_of(reference["out_probs"][:, :-1], clipped, 0.05, 0.5, 10)
    torch.testing.assert_close(found["boxes"], reference["out_inst_boxes"], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found["scores"], reference["out_inst_scores"], rtol=1e-5, atol=0)
    assert torch.equal(found["labels"], reference["out_inst_classes"])


def test_joined_scores_are_those_of_either_head_being_right():
    spatial, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3), 0.0]])
    expected = torch.tensor([[0.5 + 0.75 * 0.5, 0.5 + 0.25 * 0.5]])
    torch.testing.assert_close(joined_scores(spatial, other), expected)


def test_the_head_is_two_layers_with_relu_and_two_outputs():
    head, features = BoxHead(SPEC, num_classes=3, width=8), torch.randn(2, 5, 2, 3, 3)
    x = features.view(2, 5, 18)
    for layer in (head.encoder[1], head.encoder[3]):
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    logits, deltas = head(features)
    torch.testing.assert_close(logits, x @ head.classifier.weight.T + head.classifier.bias)
    expected = x @ head.regressor.weight.T + head.regressor.bias
    torch.testing.assert_close(deltas, expected.view(2, 5, 3, 4))
    assert logits.shape == (2, 5, 4)


def test_the_head_results_in_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, deltas = BoxHead(SPEC, 3, width=8)(torch.randn(5, 2, 3, 3))
    assert logits.dtype == deltas.dtype == torch.float32


def test_losses_by_hand():
    logits = torch.tensor([[0.0, 0, 0], [math.log(2), 0, 0], [0.0, 0, math.log(6)], [0.0, 0, 0]])
    labels = torch.tensor([1, 0, 2, 2])  # 2 is background
    proposals = torch.tensor([[0.0, 0, 10, 20]]).expand(4, 4)
    objects = proposals.clone()
    objects[0] += torch.tensor([1.0, 2, 1, 2])  # deltas (1, 1, 0, 0)
    objects[2:] = 0
    deltas = torch.full((4, 2, 4), 100.0)
    deltas[0, 1] = torch.tensor([0.5, 1.0, 0.25, -1])  # off by 0.5, 0, 0.25, 1
    deltas[1, 0] = torch.tensor([0.0, 0, 0, 2])
    losses = BoxHead.losses(logits, deltas, proposals, labels, objects)
    expected = (math.log(3) + math.log(2) + math.log(8 / 6) + math.log(3)) / 4
    torch.testing.assert_close(losses["class"], torch.tensor(expected))
    torch.testing.assert_close(losses["box"], torch.tensor((1.75 + 2) / 4))


def test_only_the_deltas_of_the_class_of_an_object_learn():
    deltas = torch.zeros(3, 2, 4, requires_grad=True)
    proposals = torch.tensor([[0.0, 0, 10, 20]]).expand(3, 4)
    labels = torch.tensor([1, 2, 0])
    losses = BoxHead.losses(torch.zeros(3, 3), deltas, proposals, labels, proposals + 1)
    losses["box"].backward()
    assert (deltas.grad != 0).any(dim=2).tolist() == [[False, True], [False, False], [True, False]]


def test_without_rois_losses_are_zero_with_gradients():
    head = BoxHead(SPEC, 3, width=8)
    logits, deltas = head(torch.zeros(0, 2, 3, 3))
    labels = torch.zeros(0, dtype=torch.int64)
    losses = head.losses(logits, deltas, torch.zeros(0, 4), labels, torch.zeros(0, 4))
    assert losses == {"class": 0, "box": 0}
    sum(losses.values()).backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in head.parameters())


def test_without_objects_the_box_loss_is_zero_with_gradients():
    head = BoxHead(SPEC, 3, width=8)
    logits, deltas = head(torch.randn(4, 2, 3, 3))
    labels, boxes = torch.full((4,), 3), torch.tensor([[0.0, 0, 9, 9]]).expand(4, 4)
    losses = head.losses(logits, deltas, boxes, labels, torch.zeros(4, 4))
    assert losses["box"] == 0
    torch.testing.assert_close(losses["class"], F.cross_entropy(logits, labels))
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    assert not head.regressor.weight.grad.any()


def test_class_loss_is_the_mean_cross_entropy():
    logits, labels = torch.randn(7, 4), torch.randint(4, (7,))
    torch.testing.assert_close(class_loss(logits, labels), F.cross_entropy(logits, labels))
    assert class_loss(logits[:0], labels[:0]) == 0


def test_detections_are_suppressed_within_their_class_and_come_best_first():
    box, near, far = [0.0, 0, 10, 10], [0.0, 0, 10, 9], [50.0, 50, 60, 60]
    boxes = torch.tensor([[box, box], [near, near], [far, far]])
    scores = torch.tensor([[0.6, 0.05], [0.9, 0.2], [0.04, 0.7]])
    found = detections_of(scores, boxes, 0.05, 0.5, 100)
    assert found["labels"].tolist() == [0, 1, 1]
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.7, 0.2]))
    assert found["boxes"].tolist() == [near, far, near]
    found = detections_of(scores, boxes, 0.05, 0.95, 3)
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.7, 0.6]))


def test_scores_of_the_threshold_and_boxes_without_extent_are_no_detections():
    boxes = torch.tensor([[[0.0, 0, 9, 9]], [[0.0, 20, 9, 20]], [[40.0, 40, 30, 50]]])
    scores = torch.tensor([[0.5], [0.9], [0.9]])
    assert len(detections_of(scores, boxes, 0.25, 0.5, 9)["scores"]) == 1
    found = detections_of(scores, boxes, 0.5, 0.5, 9)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
    }
    assert found["labels"].dtype == torch.int64


def test_no_rois_are_no_detections():
    found = detections_of(torch.zeros(0, 3), torch.zeros(0, 3, 4), 0.05, 0.5, 9)
    assert found["boxes"].shape == (0, 4)


def test_a_feature_vector_passes_to_both_outputs_unchanged():
    head, features = BoxHead(CandidateSpec(5), num_classes=3, width=8), torch.randn(2, 4, 5, 1, 1)
    x = features.view(2, 4, 5)
    logits, deltas = head(features)
    torch.testing.assert_close(logits, x @ head.classifier.weight.T + head.classifier.bias)
    expected = x @ head.regressor.weight.T + head.regressor.bias
    torch.testing.assert_close(deltas, expected.view(2, 4, 3, 4))


def test_frames_of_a_batch_do_not_meet_and_candidates_that_are_not_there_do_not_count():
    box, far = [0.0, 0, 10, 10], [50.0, 50, 60, 60]
    boxes = torch.tensor([[[box], [box], [far]], [[box], [box], [far]]])
    scores = torch.tensor([[[0.9], [0.6], [0.3]], [[0.8], [0.7], [0.4]]])
    is_valid = torch.tensor([[True, True, False], [False, True, True]])
    found = box_head.detections_of(scores, boxes, is_valid, 0.05, 0.5, 9)
    first, second = without_padding(found)
    torch.testing.assert_close(first["scores"], torch.tensor([0.9]))
    assert first["boxes"].tolist() == [box]
    torch.testing.assert_close(second["scores"], torch.tensor([0.7, 0.4]))
    assert second["boxes"].tolist() == [box, far]


def test_layers_of_the_second_version_of_torchvision():
    layers = RoILayers(convs=2, linears=1)
    head = BoxHead(SPEC, num_classes=3, width=8, layers=layers).eval()
    theirs = FastRCNNConvFCHead((2, 3, 3), [2, 2], [8], norm_layer=torch.nn.BatchNorm2d).eval()
    for name, value in theirs.named_buffers():
        if name.endswith(("mean", "var")):
            value.uniform_(0.5, 2)
    head.encoder.load_state_dict(theirs.state_dict())
    features = torch.randn(2, 5, 2, 3, 3)
    found = head.encoder(features)
    assert found.shape == (2, 5, 8)
    torch.testing.assert_close(found.flatten(0, 1), theirs(features.flatten(0, 1)))
    assert head(features[:0])[0].shape == (0, 5, 4)


def test_detections_with_a_short_side_are_dropped():
    boxes = torch.tensor([[[0.0, 0, 9, 9]], [[20.0, 0, 20.5, 9]], [[40.0, 0, 49, 0.5]]])
    scores = torch.tensor([[0.9], [0.8], [0.7]])
    assert len(detections_of(scores, boxes, 0.05, 0.5, 10, 0.4)["scores"]) == 3
    found = detections_of(scores, boxes, 0.05, 0.5, 10, 0.5)
    torch.testing.assert_close(found["scores"], torch.tensor([0.9]))
