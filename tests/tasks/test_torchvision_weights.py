from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models.detection import (
    FasterRCNN,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from tasks.lively import SIZE, lively, resnet_fpn, smooth_frames
from vodet.cli.app import config_dir
from vodet.cli.import_weights import model_config
from vodet.detector import VideoDetector
from vodet.encodings import WindowBatch
from vodet.errors import CheckpointError
from vodet.tasks.build import build_detector
from vodet.tasks.conversion import convert
from vodet.tasks.torchvision_weights import COCO, Architecture, architecture_of

Weights = dict[str, Tensor]
OUTPUTS = 91
UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # numbers that no category of COCO has


def without_eps(**options: Any) -> FasterRCNN:
    """As fasterrcnn_resnet50_fpn with its weights for COCO."""
    net = resnet_fpn(**options)
    for module in net.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
    return net


def imported(weights: Weights, names: Sequence[str], *choices: str) -> VideoDetector:
    architecture = architecture_of(weights, "a.pth")
    model = model_config(architecture, *choices)
    checkpoint, report = convert(weights, architecture, model, names, "a.pth")
    assert not report.new
    assert not report.left
    detector = build_detector(OmegaConf.create(model), names)
    state = {n.removeprefix("detector."): v for n, v in checkpoint["state_dict"].items()}
    detector.load_state_dict(state)
    return detector.eval()


def message_of(weights: Weights) -> str:
    with pytest.raises(CheckpointError) as caught:
        imported(weights, ("car", "dog", "kite"))
    return str(caught.value)


@torch.no_grad()
def detections(detector: VideoDetector, frames: Tensor, proposals: int) -> list[Any]:
    detector.head.limits[False] = replace(detector.head.limits[False], post_nms_top_n=proposals)
    encoded = detector.encode(frames)
    windows = WindowBatch.of(encoded, torch.arange(len(frames)).unsqueeze(1), 0)
    outputs, _ = detector.step(windows, detector.begin(len(frames), encoded))
    return detector.head.decode(outputs)


def assert_same(net: FasterRCNN, detector: VideoDetector, categories: Sequence[str]) -> None:
    frames = smooth_frames(2, SIZE, seed=3)
    with torch.no_grad():
        expected = net(list(frames / 255))
    found = detections(detector, frames, net.rpn._post_nms_top_n["testing"])
    for ours, theirs in zip(found, expected, strict=True):
        labels = torch.tensor([detector.class_names.index(categories[n]) for n in theirs["labels"]])
        assert len(labels) >= 20
        assert len(labels.unique()) >= 3
        torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=0, atol=1e-4)
        # Not row by row: objects of nearly equal scores may change places.
        is_same = torch.cdist(ours["boxes"], theirs["boxes"], p=torch.inf) < 1e-2
        is_same &= ours["labels"].unsqueeze(1) == labels
        is_same &= (ours["scores"].unsqueeze(1) - theirs["scores"]).abs() < 1e-4
        assert is_same.any(dim=0).all()
        assert is_same.any(dim=1).all()


def coco_categories() -> list[str]:
    categories = ["background", *(str(number) for number in range(1, OUTPUTS))]
    for name, number in zip(COCO, sorted({*range(1, OUTPUTS)} - {*UNUSED}), strict=True):
        categories[number] = name
    return categories


@pytest.mark.parametrize("build", [fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2])
def test_detections_are_those_of_torchvision(build: Any) -> None:
    net = lively(build, never=UNUSED)
    assert_same(net, imported(net.state_dict(), COCO), coco_categories())


def frozen(net: nn.Module) -> nn.Module:
    """Turn batch norms into torchvision's frozen ones, as in its detectors with weights."""
    for name, child in net.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = FrozenBatchNorm2d(child.num_features)
            state = child.state_dict()
            norm.load_state_dict({key: state[key] for key in norm.state_dict()})
            setattr(net, name, norm)
        else:
            frozen(child)
    return net


@pytest.mark.parametrize("is_frozen", [True, False])
@pytest.mark.parametrize("variant", ["", "_320"])
def test_detections_of_mobilenets_are_those_of_torchvision(variant: str, is_frozen: bool) -> None:
    build = fasterrcnn_mobilenet_v3_large_320_fpn if variant else fasterrcnn_mobilenet_v3_large_fpn
    # So many proposals that the limits of score and number matter.
    net = lively(build, never=UNUSED, proposals=150 if variant else 1000)
    if is_frozen:
        frozen(net.backbone.body)
    base = f"torchvision_mobilenet_v3_large{variant}_fpn"
    detector = imported(net.state_dict(), COCO, f"base={base}")
    assert detector.backbone.frozen_norm == is_frozen
    assert_same(net, detector, coco_categories())


@pytest.mark.parametrize(
    ("build", "variant"),
    [
        (fasterrcnn_mobilenet_v3_large_fpn, ""),
        (fasterrcnn_mobilenet_v3_large_320_fpn, "_320"),
    ],
)
def test_the_config_of_a_mobilenet_is_that_of_torchvision(build: Any, variant: str) -> None:
    with torch.device("meta"):
        net = build(weights=None, weights_backbone=None)
    found = architecture_of(net.state_dict(), "a.pth")
    base = f"torchvision_mobilenet_v3_large{variant}_fpn"
    model = model_config(found, f"base={base}")
    for mode, place in (("train", "training"), ("test", "testing")):
        limits = model["head"][f"{mode}_limits"]
        assert limits["pre_nms_top_n"] == net.rpn._pre_nms_top_n[place]
        assert limits["post_nms_top_n"] == net.rpn._post_nms_top_n[place]
        assert limits["score_threshold"] == net.rpn.score_thresh
    assert tuple(model["head"]["anchors"]["sizes"]) == net.rpn.anchor_generator.sizes[0]
    sides = (model["resize"]["short_side"], model["resize"]["long_side"])
    assert sides == (net.transform.min_size[0], net.transform.max_size)
    assert base in found.bases


def test_frozen_norms_add_nothing_to_the_variance() -> None:
    net = lively(without_eps, num_classes=4)
    for name, value in net.backbone.body.state_dict().items():  # the same without eps
        if value.ndim == 4 or name.endswith("running_mean"):
            value.mul_(1e-3)
        elif name.endswith("running_var"):
            value.mul_(1e-6)
    detector = imported(net.state_dict(), ("car", "dog", "kite"))
    assert_same(net, detector, ("background", "car", "dog", "kite"))
    assert detector.backbone.frozen_norm


@pytest.mark.parametrize("outputs", [91, 81, 4])
def test_rows_of_the_classes(outputs: int) -> None:
    """Every row holds its own number, in weights and biases."""
    weights = {
        "roi_heads.box_predictor.cls_score.weight": torch.arange(outputs).view(-1, 1),
        "roi_heads.box_predictor.cls_score.bias": torch.arange(outputs),
        "roi_heads.box_predictor.bbox_pred.weight": torch.arange(4 * outputs).view(-1, 1),
        "roi_heads.box_predictor.bbox_pred.bias": torch.arange(4 * outputs),
        "other": torch.ones(1),
    }
    network = architecture(num_outputs=outputs)
    for count in network.class_counts:
        skipped = UNUSED if (outputs, count) == (91, 80) else ()
        rows = [row for row in range(1, outputs) if row not in skipped]
        assert len(rows) == count
        boxes = [4 * row + delta for row in rows for delta in range(4)]
        found = network.arranged(weights, count)
        for name, expected in (("cls_score", [*rows, 0]), ("bbox_pred", boxes)):
            for part in ("weight", "bias"):
                value = found[f"roi_heads.box_predictor.{name}.{part}"]
                assert value.flatten().tolist() == expected
        assert found["other"] is weights["other"]


def test_numbers_of_classes() -> None:
    assert architecture(num_outputs=91).class_counts == (80, 90)
    assert architecture(num_outputs=4).class_counts == (3,)
    assert (len(COCO), COCO[0], COCO[11], COCO[79]) == (80, "person", "stop sign", "toothbrush")


def architecture(**changes: Any) -> Architecture:
    options = {
        "backbone": "resnet50",
        "num_outputs": 4,
        "has_fpn_norm": False,
        "rpn_convs": 1,
        "box_convs": 0,
        "box_linears": 2,
        "frozen_norm": True,
    }
    return Architecture(**options | changes)


@pytest.fixture(scope="module")
def small() -> Weights:
    return dict(lively(resnet_fpn, num_classes=4).state_dict())


def test_names_of_earlier_versions(small: Weights) -> None:
    """As in the file that torchvision offers for fasterrcnn_resnet50_fpn."""
    extra = r"(rpn\.head\.conv)\.0\.0\.|(_blocks\.\d)\.0\."
    names = {name: re.sub(extra, r"\1\2.", name) for name in small}
    assert "rpn.head.conv.weight" in names.values()
    assert "backbone.fpn.inner_blocks.2.bias" in names.values()
    old = {names[name]: value for name, value in small.items()}
    classes = ("car", "dog", "kite")
    expected = imported(small, classes).state_dict()
    for name, value in imported(old, classes).state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("name", ["resnet34", "resnext50_32x4d"])
def test_other_backbones(name: str) -> None:
    net = lively(resnet_fpn, num_classes=4, name=name, norm=torch.nn.BatchNorm2d)
    found = architecture_of(net.state_dict(), "a.pth")
    assert found == architecture(backbone=name, frozen_norm=False)
    detector = imported(net.state_dict(), ("car", "dog", "kite"))
    assert_same(net, detector, ("background", "car", "dog", "kite"))


def test_faults_are_named(small: Weights) -> None:
    bias = "roi_heads.box_predictor.bbox_pred.bias"
    more = small | {"roi_heads.mask_head.mask_fcn1.weight": torch.zeros(2, 3)}
    assert "mask_fcn1.weight: the detector has no such weight, found shape (2, 3)" in message_of(
        more
    )
    less = {name: value for name, value in small.items() if "layer2.0.bn1.bias" not in name}
    assert "layer2.0.bn1.bias: expected shape (128,), found no such weight" in message_of(less)
    message = message_of(small | {bias: torch.zeros(12)})
    for fact in ("a.pth", f"expected 16 rows in {bias}", "4 outputs", "found 12"):
        assert fact in message
    cut = {name: value for name, value in small.items() if "layer4.1" not in name}
    message = message_of(cut)
    assert "its stages have (2, 2, 2, 1) blocks of 2 convolutions" in message
    assert "resnet50" in message


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_another_mobilenet_is_refused_in_plain_words(name: str) -> None:
    with torch.device("meta"):
        body = mobilenet_backbone(backbone_name=name, weights=None, fpn=True)
        net = FasterRCNN(body, 4, rpn_anchor_generator=AnchorGenerator(((32,),) * 3))
    message = message_of(net.state_dict())
    for fact in ("a.pth", "MobileNet other than mobilenet_v3_large", "resnet18, resnet34, "):
        assert fact in message


def test_a_mobilenet_with_other_anchors_is_refused() -> None:
    body = mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True)
    net = FasterRCNN(body, 4, rpn_anchor_generator=AnchorGenerator(((32, 64),) * 3))
    message = message_of(net.state_dict())
    assert "rpn.head.cls_logits.weight: " in message
    assert "(15, 256, 1, 1)" in message
    assert "(6, 256, 1, 1)" in message


def test_the_config_is_that_of_torchvision() -> None:
    model = model_config(architecture(num_outputs=91))
    head = model["head"]
    limits = {key: value for key, value in head["test_limits"].items() if key != "_target_"}
    assert limits == {
        "pre_nms_top_n": 1000,
        "post_nms_top_n": 1000,
        "nms_iou": 0.7,
        "min_size": 1e-3,
    }
    assert head["train_limits"]["post_nms_top_n"] == 2000
    kept = ("score_threshold", "nms_iou", "max_detections", "min_size")
    assert [head[key] for key in kept] == [0.05, 0.5, 100, 0.01]
    assert (model["resize"]["short_side"], model["resize"]["long_side"]) == (800, 1333)
    assert model["backbone"]["mean"] == [123.675, 116.28, 103.53]
    assert model["backbone"]["std"] == [58.395, 57.12, 57.375]
    assert (model["window"]["past"], model["window"]["future"]) == (0, 0)


@pytest.mark.parametrize(
    ("base", "options"),
    [
        ("torchvision_resnet50_fpn", {}),
        (
            "torchvision_resnet50_fpn_v2",
            {
                "has_fpn_norm": True,
                "rpn_convs": 2,
                "box_convs": 4,
                "box_linears": 1,
                "frozen_norm": False,
            },
        ),
        ("torchvision_mobilenet_v3_large_fpn", {"backbone": "mobilenet_v3_large"}),
    ],
)
def test_what_the_weights_tell_agrees_with_the_base(base: str, options: dict[str, Any]) -> None:
    """A training with this base begins where the imported detector stands."""
    network = architecture(**options)
    assert network.overrides[-1] == f"base={base}"
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        model = hydra.compose("train", network.overrides).model
    for key, value in network.settings().items():
        assert OmegaConf.select(model, key) == value, key
