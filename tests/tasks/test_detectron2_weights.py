from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F

from tasks.made_up import (
    RESNET50,
    RESNET101,
    attention_shapes,
    attention_weights,
    baseline_weights,
    body_shapes,
    cell_anchors,
    empty_weights,
    head_shapes,
    pixel_buffers,
    random_weights,
    with_bias,
)
from tiny import random_frames
from vodet.cli.import_weights import model_config
from vodet.errors import CheckpointError
from vodet.fusion.relation import RelationAttention
from vodet.tasks.checkpoint_file import WHAT_READS_WHAT
from vodet.tasks.conversion import convert
from vodet.tasks.detectron2_weights import Architecture, architecture_of, vodet_name

Weights = dict[str, Tensor]
NAMES = ("car", "dog", "kite")


@pytest.fixture(scope="module")
def baseline() -> Weights:
    return baseline_weights()


@pytest.fixture(scope="module")
def sltnet(baseline: Weights) -> Weights:
    return baseline | attention_weights()


def converted(weights: Weights, **changes: Any) -> dict[str, Any]:
    architecture = architecture_of(weights, "a.pth")
    model = model_config(architecture) | changes
    checkpoint, _ = convert(weights, architecture, model, NAMES, "a.pth")
    return checkpoint


def state_of(weights: Weights) -> Weights:
    state = converted(weights)["state_dict"]
    assert all(name.startswith("detector.") for name in state)
    return {name.removeprefix("detector."): value for name, value in state.items()}


def message_of(weights: Weights) -> str:
    with pytest.raises(CheckpointError) as caught:
        converted(weights)
    return str(caught.value)


BODY, ST = "backbone.bottom_up", "roi_heads.st_box_head"
ATTENTION = "head.fusion.members.attention"
PAIRS = {
    f"{BODY}.stem.conv1.weight": "backbone.net.conv1.weight",
    f"{BODY}.stem.conv1.norm.weight": "backbone.net.bn1.weight",
    f"{BODY}.stem.conv1.norm.running_var": "backbone.net.bn1.running_var",
    f"{BODY}.res2.0.conv1.weight": "backbone.net.layer1.0.conv1.weight",
    f"{BODY}.res2.0.shortcut.weight": "backbone.net.layer1.0.downsample.0.weight",
    f"{BODY}.res2.0.shortcut.norm.bias": "backbone.net.layer1.0.downsample.1.bias",
    f"{BODY}.res3.3.conv2.weight": "backbone.net.layer2.3.conv2.weight",
    f"{BODY}.res3.3.conv2.norm.running_mean": "backbone.net.layer2.3.bn2.running_mean",
    f"{BODY}.res4.5.conv3.weight": "backbone.net.layer3.5.conv3.weight",
    f"{BODY}.res5.2.conv3.norm.bias": "backbone.net.layer4.2.bn3.bias",
    "backbone.fpn_lateral2.weight": "pyramid.net.inner_blocks.0.0.weight",
    "backbone.fpn_lateral5.bias": "pyramid.net.inner_blocks.3.0.bias",
    "backbone.fpn_output2.bias": "pyramid.net.layer_blocks.0.0.bias",
    "backbone.fpn_output4.weight": "pyramid.net.layer_blocks.2.0.weight",
    "proposal_generator.rpn_head.conv.weight": "head.rpn.net.conv.0.0.weight",
    "proposal_generator.rpn_head.objectness_logits.bias": "head.rpn.net.cls_logits.bias",
    "proposal_generator.rpn_head.anchor_deltas.weight": "head.rpn.net.bbox_pred.weight",
    "roi_heads.box_head.fc1.weight": "head.box_head.encoder.1.weight",
    "roi_heads.box_head.fc2.bias": "head.box_head.encoder.3.bias",
    "roi_heads.box_predictor.cls_score.weight": "head.box_head.classifier.weight",
    "roi_heads.box_predictor.bbox_pred.bias": "head.box_head.regressor.bias",
}
ST_PAIRS = {
    f"{ST}.fcs.0.weight": f"{ATTENTION}.fcs.0.weight",
    f"{ST}.fcs.1.bias": f"{ATTENTION}.fcs.1.bias",
    f"{ST}.Wgs.0.weight": f"{ATTENTION}.attentions.0.geometry.weight",
    f"{ST}.Wgs.1.bias": f"{ATTENTION}.attentions.1.geometry.bias",
    f"{ST}.Wqs.1.weight": f"{ATTENTION}.attentions.1.query.weight",
    f"{ST}.Wks.0.bias": f"{ATTENTION}.attentions.0.key.bias",
    f"{ST}.Wvs.1.weight": f"{ATTENTION}.attentions.1.value.weight",
    "roi_heads.st_cls_predictor.cls_score.weight": "head.st_head.classifier.weight",
    "roi_heads.st_cls_predictor.cls_score.bias": "head.st_head.classifier.bias",
}


@pytest.mark.parametrize("kind", ["baseline", "sltnet"])
def test_every_weight_comes_to_its_place(kind: str, request: pytest.FixtureRequest) -> None:
    weights: Weights = request.getfixturevalue(kind)
    state = state_of(weights)

    for name, place in (PAIRS if kind == "baseline" else PAIRS | ST_PAIRS).items():
        torch.testing.assert_close(
            state[place].flatten(), weights[name].flatten(), rtol=0, atol=0, msg=name
        )
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert len(state) - len(counters) == len(weights)
    assert {vodet_name(name) for name in weights} == state.keys() - counters
    assert len(counters) == 53


def test_names_without_a_place() -> None:
    assert vodet_name("backbone.fpn_lateral6.weight") is None
    assert vodet_name("other.backbone.fpn_lateral2.weight") is None
    assert vodet_name("backbone.fpn_lateral2.norm.weight") is None


def detectron2_name(name: str) -> str | None:
    """The inverse, written by hand."""
    fixed = {
        "head.rpn.net.conv.0.0.": "proposal_generator.rpn_head.conv.",
        "head.rpn.net.cls_logits.": "proposal_generator.rpn_head.objectness_logits.",
        "head.rpn.net.bbox_pred.": "proposal_generator.rpn_head.anchor_deltas.",
        "head.box_head.encoder.1.": "roi_heads.box_head.fc1.",
        "head.box_head.encoder.3.": "roi_heads.box_head.fc2.",
        "head.box_head.classifier.": "roi_heads.box_predictor.cls_score.",
        "head.box_head.regressor.": "roi_heads.box_predictor.bbox_pred.",
        "head.st_head.classifier.": "roi_heads.st_cls_predictor.cls_score.",
        "backbone.net.conv1.": "backbone.bottom_up.stem.conv1.",
        "backbone.net.bn1.": "backbone.bottom_up.stem.conv1.norm.",
    }
    for ours, theirs in fixed.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    words = name.split(".")
    if name.startswith("pyramid"):
        kind = {"inner_blocks": "lateral", "layer_blocks": "output"}[words[2]]
        return f"backbone.fpn_{kind}{int(words[3]) + 2}.{words[-1]}"
    if name.startswith("backbone.net.layer"):
        part = {"downsample.0": "shortcut", "downsample.1": "shortcut.norm"}.get(
            ".".join(words[4:6])
        ) or words[4].replace("bn1", "conv1.norm").replace("bn2", "conv2.norm").replace(
            "bn3", "conv3.norm"
        )
        return f"backbone.bottom_up.res{int(words[2][-1]) + 1}.{words[3]}.{part}.{words[-1]}"
    if words[4] == "fcs":
        return f"roi_heads.st_box_head.fcs.{words[5]}.{words[6]}"
    kind = {"geometry": "Wgs", "query": "Wqs", "key": "Wks", "value": "Wvs"}[words[6]]
    return f"roi_heads.st_box_head.{kind}.{words[5]}.{words[7]}"


def test_there_and_back_again(sltnet: Weights) -> None:
    state = state_of(sltnet)

    back = {
        detectron2_name(name): value[..., None, None]
        if re.search(r"(geometry|value)\.weight", name)
        else value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }

    assert back.keys() == sltnet.keys()
    torch.testing.assert_close(back, sltnet, rtol=0, atol=0)
    torch.testing.assert_close(state_of(back), state, rtol=0, atol=0)


def test_resnext101() -> None:
    shapes = {**dict(body_shapes(RESNET101, 32, 8)), **dict(head_shapes(256, 1024, 30))}
    shapes |= dict(attention_shapes(256, 1024, 30, groups=16))
    weights = empty_weights(shapes)
    architecture = architecture_of(weights, "a.pth")
    model = model_config(architecture)
    assert model["backbone"]["name"] == "resnext101_32x8d"
    assert model["head"]["fusion"]["attention"]["group_width"] == 64

    with torch.device("meta"):
        detector = instantiate(OmegaConf.create(model), class_names=[str(i) for i in range(30)])

    own = {
        name: value.shape
        for name, value in detector.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    found = {vodet_name(name): value.shape for name, value in weights.items()}
    assert found.keys() == own.keys()
    for name, shape in own.items():
        assert found[name][: len(shape)] == shape
        assert set(found[name][len(shape) :]) <= {1}


def architecture(**shapes: tuple[int, ...]) -> Architecture:
    return architecture_of(empty_weights(shapes), "a.pth")


@pytest.mark.parametrize(
    ("body", "backbone", "std", "stride_in_1x1"),
    [
        ((RESNET50, 1, 64), "resnet50", (1.0, 1.0, 1.0), True),
        ((RESNET101, 1, 64), "resnet101", (1.0, 1.0, 1.0), True),
        ((RESNET101, 32, 8), "resnext101_32x8d", (57.375, 57.12, 58.395), False),
    ],
)
def test_what_the_weights_say(
    body: Any, backbone: str, std: tuple[float, ...], stride_in_1x1: bool
) -> None:
    found = architecture(**dict(body_shapes(*body)), **dict(head_shapes(24, 96, 7)))
    assert found == Architecture(
        backbone=backbone,
        num_classes=7,
        pyramid_channels=24,
        width=96,
        resolution=7,
        mean=(103.53, 116.28, 123.675),
        std=std,
        states_input=False,
    )
    assert (found.channel_order, found.stride_in_1x1) == ("bgr", stride_in_1x1)


def test_mean_and_std_of_the_file() -> None:
    def of(mean: list[float], std: list[float]) -> Architecture:
        shapes = {**dict(body_shapes()), **dict(head_shapes())}
        return architecture_of(empty_weights(shapes) | pixel_buffers(mean, std), "a.pth")

    caffe = of([102.9801, 115.9465, 122.7717], [1, 1, 1])
    assert caffe.mean == (102.9801, 115.9465, 122.7717)
    assert (caffe.channel_order, caffe.stride_in_1x1, caffe.states_input) == ("bgr", True, True)
    torchvision = of([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    assert torchvision.std == (58.395, 57.12, 57.375)
    assert (torchvision.channel_order, torchvision.stride_in_1x1) == ("rgb", False)


def test_the_config(baseline: Weights, sltnet: Weights) -> None:
    model = converted(baseline)["vodet"]["config"]["model"]
    assert "${" not in str(model)
    assert model["backbone"] | {"frozen": None} == {
        "_target_": "vodet.features.backbone.TimmBackbone",
        "name": "resnet50",
        "strides": [4, 8, 16, 32],
        "pretrained": False,
        "checkpoint_path": None,
        "frozen": None,
        "frozen_norm": True,
        "mean": [103.53, 116.28, 123.675],
        "norm_eps": None,
        "std": [1.0, 1.0, 1.0],
        "channel_order": "bgr",
        "padding": "mean",
        "stride_in_1x1": True,
        "img_size": None,
    }
    assert (model["resize"]["short_side"], model["resize"]["long_side"]) == (800, 1333)
    assert (model["window"]["past"], model["window"]["future"]) == (0, 0)
    assert model["fusion"]["_target_"] == "vodet.fusion.none.NoFusion"
    assert not model["head"].get("fusion")

    model = converted(sltnet)["vodet"]["config"]["model"]
    assert (model["window"]["past"], model["window"]["future"]) == (3, 3)
    assert list(model["head"]["fusion"]) == ["aggregation", "attention"]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("advanced", [0, 1])
def test_layers_of_the_attention(layers: int, advanced: int) -> None:
    shapes = {**dict(body_shapes()), **dict(head_shapes())}
    shapes |= dict(attention_shapes(layers=layers, advanced=advanced))

    assert architecture(**shapes).attention == {
        "width": 64,
        "layers": layers,
        "advanced_share": 0.2 * advanced,
        "geometry": True,
        "group_width": 16,
    }


def test_an_advanced_stage(baseline: Weights) -> None:
    extra = attention_weights(layers=1, advanced=1)
    state = state_of(baseline | extra)
    for theirs, ours in ((f"{ST}.fcs.1", "fcs.1"), (f"{ST}.Wqs.2", "attentions.2.query")):
        own = state[f"{ATTENTION}.{ours}.weight"]
        torch.testing.assert_close(own, extra[f"{theirs}.weight"], rtol=0, atol=0)


def test_attention_that_does_not_know_where_boxes_lie(baseline: Weights) -> None:
    """SLTnet keeps the layers of its geometry, untrained, where it does not use them."""
    extra = attention_weights()
    untrained = {name: value for name, value in extra.items() if "Wgs" in name}
    extra |= {name: torch.zeros_like(value) for name, value in untrained.items() if "bias" in name}
    without = {name: value for name, value in extra.items() if name not in untrained}

    weights = baseline | extra
    found = architecture_of(weights, "a.pth")
    assert not found.attention["geometry"]
    _, report = convert(weights, found, model_config(found), NAMES, "a.pth")
    assert set(report.left) == untrained.keys()
    assert "Left in the checkpoint: 4 weights" in str(report)
    torch.testing.assert_close(state_of(baseline | without), state_of(weights), rtol=0, atol=0)


def test_a_second_head_without_attention(baseline: Weights) -> None:
    shapes = [*with_bias(f"{ST}.fc1", 64, 784), *with_bias(f"{ST}.fc2", 64, 64)]
    shapes += with_bias("roi_heads.st_cls_predictor.cls_score", 4, 64)
    extra = random_weights(dict(shapes), seed=2)
    state = state_of(baseline | extra)
    own = state["head.st_head.encoder.1.weight"]
    torch.testing.assert_close(own, extra[f"{ST}.fc1.weight"], rtol=0, atol=0)
    assert not any("attention" in name for name in state)


@pytest.mark.parametrize("prefix", ["st_cls_predictor", "roi_heads.box_predictor.st_cls_predictor"])
def test_the_second_classifier_by_other_names(prefix: str, sltnet: Weights) -> None:
    renamed = {
        name.replace("roi_heads.st_cls_predictor.cls_score", prefix): value
        for name, value in sltnet.items()
    }
    assert renamed.keys() != sltnet.keys()
    torch.testing.assert_close(state_of(renamed), state_of(sltnet), rtol=0, atol=0)


def written_out(
    w: Weights, frames: Tensor, std: list[float], *, stride_in_1x1: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """The levels of the pyramid and the objectness of a ResNet-50 of detectron2, step by step."""

    def normed(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        x = F.conv2d(x, w[f"{name}.weight"], stride=stride, padding=padding)
        mean, variance, scale, shift = (
            w[f"{name}.norm.{part}"].view(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def conv(x: Tensor, name: str, padding: int = 0) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding)

    blue_first = frames.flip(1) - torch.tensor([103.53, 116.28, 123.675]).view(1, 3, 1, 1)
    x = blue_first / torch.tensor(std).view(1, 3, 1, 1)
    x = F.max_pool2d(normed(x, f"{BODY}.stem.conv1", 2, 3).relu(), 3, stride=2, padding=1)
    outputs = []
    for stage, blocks in zip(range(2, 6), RESNET50, strict=True):
        for number in range(blocks):
            name, stride = f"{BODY}.res{stage}.{number}", 2 if stage > 2 and number == 0 else 1
            first, second = (stride, 1) if stride_in_1x1 else (1, stride)
            shortcut = normed(x, f"{name}.shortcut", stride) if number == 0 else x
            x = normed(x, f"{name}.conv1", first).relu()
            x = normed(x, f"{name}.conv2", second, 1).relu()
            x = (normed(x, f"{name}.conv3") + shortcut).relu()
        outputs.append(x)
    inner = conv(outputs[3], "backbone.fpn_lateral5")
    levels = [conv(inner, "backbone.fpn_output5", 1)]
    for stage in (4, 3, 2):
        enlarged = F.interpolate(inner, scale_factor=2, mode="nearest")
        inner = enlarged + conv(outputs[stage - 2], f"backbone.fpn_lateral{stage}")
        levels.insert(0, conv(inner, f"backbone.fpn_output{stage}", 1))
    levels.append(levels[-1][..., ::2, ::2])
    rpn = "proposal_generator.rpn_head"
    hidden = [conv(level, f"{rpn}.conv", 1).relu() for level in levels]
    return levels, [conv(level, f"{rpn}.objectness_logits") for level in hidden]


@pytest.mark.parametrize("std", [[1.0, 1.0, 1.0], [57.375, 57.12, 58.395]])
def test_the_network_computes_the_same(std: list[float], baseline: Weights) -> None:
    weights = baseline | pixel_buffers([103.53, 116.28, 123.675], std)
    checkpoint = converted(weights)
    model = OmegaConf.create(checkpoint["vodet"]["config"]["model"])
    detector = instantiate(model, class_names=NAMES).eval()
    state = checkpoint["state_dict"]
    detector.load_state_dict({n.removeprefix("detector."): v for n, v in state.items()})
    frames = random_frames(2, (64, 96))

    with torch.no_grad():
        found = detector.encode(frames)
        found_logits = detector.head.rpn(found.maps)["anchor_logits"]
        maps, logits = written_out(weights, frames, std, stride_in_1x1=std[0] == 1)

    torch.testing.assert_close(list(found.maps.levels), maps, rtol=1e-3, atol=1e-3)
    expected = torch.cat([level.permute(0, 2, 3, 1).flatten(1) for level in logits], dim=1)
    torch.testing.assert_close(found_logits, expected, rtol=1e-3, atol=1e-3)
    rois = torch.randn(5, 16, 7, 7)
    x, head = rois.flatten(1), "roi_heads.box_head"
    for layer in ("fc1", "fc2"):
        x = F.linear(x, weights[f"{head}.{layer}.weight"], weights[f"{head}.{layer}.bias"]).relu()
    deltas = F.linear(
        x,
        weights["roi_heads.box_predictor.bbox_pred.weight"],
        weights["roi_heads.box_predictor.bbox_pred.bias"],
    )
    torch.testing.assert_close(detector.head.box_head(rois)[1][:, 2], deltas[:, 8:12])


def test_values_are_those_of_a_grouped_convolution(sltnet: Weights) -> None:
    state, groups, width = state_of(sltnet), 4, 64
    attention = RelationAttention(width, groups)
    prefix = f"{ATTENTION}.attentions.1."
    attention.load_state_dict(
        {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    )
    x, keys, embedding = torch.randn(5, width), torch.randn(7, width), torch.randn(5, 7, 16)
    w = {name.removeprefix(f"{ST}."): value for name, value in sltnet.items() if ST in name}

    place = F.conv2d(embedding.permute(2, 0, 1)[None], w["Wgs.1.weight"], w["Wgs.1.bias"])
    query = F.linear(x, w["Wqs.1.weight"], w["Wqs.1.bias"]).unflatten(1, (groups, -1))
    key = F.linear(keys, w["Wks.1.weight"], w["Wks.1.bias"]).unflatten(1, (groups, -1))
    logits = torch.einsum("ngd,mgd->gnm", query, key) / 4 + (place[0].relu() + 1e-6).log()
    summed = (logits.softmax(dim=2) @ keys).transpose(0, 1)  # [5, groups, width]
    expected = F.conv2d(
        summed.reshape(5, -1, 1, 1), w["Wvs.1.weight"], w["Wvs.1.bias"], groups=groups
    )

    bias = attention.bias(embedding[None], torch.ones(1, 7, dtype=torch.bool))
    found, _ = attention(x[None], attention.project(keys[None]), bias)
    torch.testing.assert_close(found[0], expected[:, :, 0, 0], rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_listed_in_one_error(baseline: Weights) -> None:
    weights = dict(baseline)
    del weights["roi_heads.box_head.fc2.bias"]
    weights["roi_heads.mask_head.deconv.weight"] = torch.zeros(2, 3)
    weights["roi_heads.box_predictor.bbox_pred.weight"] = torch.zeros(4, 64)

    first, *lines = message_of(weights).splitlines()
    assert "a.pth" in first
    assert first.endswith(" 3 differences:")
    assert lines == [
        "  roi_heads.box_predictor.bbox_pred.weight: expected shape (12, 64), found (4, 64)",
        "  roi_heads.mask_head.deconv.weight: the detector has no such weight, found shape (2, 3)",
        "  head.box_head.encoder.3.bias: expected shape (64,), found no such weight in the file",
    ]


def test_at_most_ten_differences_are_listed(baseline: Weights) -> None:
    extra = {f"other.{number}": torch.zeros(1) for number in range(25)}
    lines = message_of(baseline | extra).splitlines()
    assert "25 differences" in lines[0]
    assert len(lines) == 11


def test_two_weights_for_one_place(sltnet: Weights) -> None:
    second = {"st_cls_predictor.weight": torch.zeros(4, 64)}
    assert "  st_cls_predictor.weight: found a second weight for head.st_head.cl" in message_of(
        sltnet | second
    )


def test_weights_of_something_else() -> None:
    lines = message_of({"conv1_w": torch.zeros(64, 3, 7, 7), "a": torch.zeros(1)}).splitlines()
    for fact in ("Faster R-CNN with FPN", "detectron2", "a.pth", "2 weights, such as 'a'"):
        assert fact in lines[0]
    assert lines[0].endswith(" 4 faults:")
    line = next(line for line in lines if line.startswith("  backbone.fpn_lateral2.weight: "))
    assert "4 dimensions" in line
    assert line.endswith("found no such weight")
    assert lines[-1] == WHAT_READS_WHAT


def test_a_weight_of_other_dimensions(baseline: Weights) -> None:
    message = message_of(baseline | {"roi_heads.box_head.fc1.weight": torch.zeros(7)})
    line = next(line for line in message.splitlines() if "  roi_heads.box_head.fc1.weight" in line)
    assert "2 dimensions" in line
    assert line.endswith("found shape (7,)")


def test_a_weight_without_numbers(baseline: Weights) -> None:
    message = message_of(baseline | {"roi_heads.box_head.fc1.weight": torch.zeros(0, 784)})
    line = next(line for line in message.splitlines() if "  roi_heads.box_head.fc1.weight" in line)
    assert "not empty" in line
    assert line.endswith("found shape (0, 784)")


def test_a_weight_of_whole_numbers(baseline: Weights) -> None:
    name = "roi_heads.box_head.fc1.weight"
    message = message_of(baseline | {name: baseline[name].to(torch.int8)})
    assert f"  {name}: expected torch.float32, found torch.int8" in message


@pytest.mark.parametrize(
    "body", [((2, 2, 2, 2), 1, 64), ((3, 8, 36, 3), 1, 64), (RESNET101, 32, 4)]
)
def test_other_backbones(body: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        architecture(**dict(body_shapes(*body)), **dict(head_shapes()))
    message = str(caught.value)
    assert f"its stages have {body[0]} blocks" in message
    for name in ("resnet50", "resnet101", "resnext101_32x8d"):
        assert f"{name} ((3, 4, " in message


def test_attention_of_another_kind(sltnet: Weights) -> None:
    weights = {name: value for name, value in sltnet.items() if "fcs.1" not in name}
    weights |= {f"{ST}.Wqs.7.weight": torch.zeros(64, 64)}
    assert "found 3 Wqs and 1 fcs." in message_of(weights)


def test_buffers_are_no_weights(baseline: Weights) -> None:
    buffers = cell_anchors() | pixel_buffers([103.53, 116.28, 123.675], [1, 1, 1])
    torch.testing.assert_close(state_of(baseline | buffers), state_of(baseline), rtol=0, atol=0)


def test_counters_of_batches_are_kept_where_they_are(baseline: Weights) -> None:
    name = "backbone.bottom_up.stem.conv1.norm.num_batches_tracked"
    state = state_of(baseline | {name: torch.tensor(12)})
    assert state["backbone.net.bn1.num_batches_tracked"] == 12
    assert state["backbone.net.layer1.0.bn1.num_batches_tracked"] == 0


@pytest.mark.parametrize("change", ["sizes", "levels", "ratios"])
def test_other_anchors(change: str, baseline: Weights) -> None:
    anchors = cell_anchors()
    first, *_, last = anchors
    if change == "sizes":
        anchors[first] = anchors[first] / 2
    elif change == "levels":
        del anchors[last]
    else:
        anchors = {name: value.repeat(2, 1) for name, value in anchors.items()}
    message = message_of(baseline | anchors)
    assert message.startswith("The anchors in a.pth ")
    assert "expected [[[-23.0, -" in message


def test_a_config_that_builds_nothing(baseline: Weights) -> None:
    with pytest.raises(CheckpointError, match=r"detector for the weights in a\.pth: .*past=-1"):
        converted(baseline, window={"_target_": "vodet.structures.Window", "past": -1})
