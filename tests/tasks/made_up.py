"""Checkpoints of the structure of detectron2's and SLTnet's, with random values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

RESNET50, RESNET101 = (3, 4, 6, 3), (3, 4, 23, 3)
SIZES = (32, 64, 128, 256, 512)  # of the anchors


def body_shapes(
    blocks: Sequence[int] = RESNET50, groups: int = 1, group_width: int = 64
) -> Iterator[tuple[str, tuple[int, ...]]]:
    def norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for statistic in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.norm.{statistic}", (width,)

    stem = "backbone.bottom_up.stem.conv1"
    yield f"{stem}.weight", (64, 3, 7, 7)
    yield from norm(stem, 64)
    fan_in = 64
    for stage, count in enumerate(blocks):
        inner, out = groups * group_width * 2**stage, 256 * 2**stage
        for block in range(count):
            convs = {
                "conv1": (inner, fan_in, 1, 1),
                "conv2": (inner, inner // groups, 3, 3),
                "conv3": (out, inner, 1, 1),
            }
            if block == 0:
                convs["shortcut"] = (out, fan_in, 1, 1)
            for conv, shape in convs.items():
                name = f"backbone.bottom_up.res{stage + 2}.{block}.{conv}"
                yield f"{name}.weight", shape
                yield from norm(name, shape[0])
            fan_in = out


def with_bias(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def head_shapes(
    channels: int = 16, width: int = 64, classes: int = 3
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for level in range(2, 6):
        yield from with_bias(f"backbone.fpn_lateral{level}", channels, 64 * 2**level, 1, 1)
        yield from with_bias(f"backbone.fpn_output{level}", channels, channels, 3, 3)
    rpn = "proposal_generator.rpn_head"
    yield from with_bias(f"{rpn}.conv", channels, channels, 3, 3)
    yield from with_bias(f"{rpn}.objectness_logits", 3, channels, 1, 1)
    yield from with_bias(f"{rpn}.anchor_deltas", 12, channels, 1, 1)
    yield from with_bias("roi_heads.box_head.fc1", width, channels * 49)
    yield from with_bias("roi_heads.box_head.fc2", width, width)
    yield from with_bias("roi_heads.box_predictor.cls_score", classes + 1, width)
    yield from with_bias("roi_heads.box_predictor.bbox_pred", 4 * classes, width)


def attention_shapes(
    channels: int = 16,
    width: int = 64,
    classes: int = 3,
    groups: int = 4,
    layers: int = 2,
    advanced: int = 0,
) -> Iterator[tuple[str, tuple[int, ...]]]:
    head = "roi_heads.st_box_head"
    for number in range(layers + advanced):
        yield from with_bias(f"{head}.fcs.{number}", width, width if number else channels * 49)
    for number in range(layers + 2 * advanced):
        yield from with_bias(f"{head}.Wgs.{number}", groups, width // groups, 1, 1)
        yield from with_bias(f"{head}.Wqs.{number}", width, width)
        yield from with_bias(f"{head}.Wks.{number}", width, width)
        yield from with_bias(f"{head}.Wvs.{number}", width, width, 1, 1)
    yield from with_bias("roi_heads.st_cls_predictor.cls_score", classes + 1, width)


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Weights with which signals neither grow nor vanish."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            value /= math.sqrt(math.prod(shape[1:]))
        elif name.endswith(("norm.weight", "running_var")):
            value = 1 + 0.1 * value.clamp(-3, 3)
        else:
            value *= 0.1
        weights[name] = value
    return weights


def empty_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights that take no memory."""
    return {name: torch.ones(1).expand(shape) for name, shape in shapes.items()}


def cell_anchors() -> dict[str, Tensor]:
    anchors = {}
    for level, size in enumerate(SIZES):
        rows = []
        for ratio in (0.5, 1.0, 2.0):
            width = (size**2 / ratio) ** 0.5
            height = ratio * width
            rows.append([-width / 2, -height / 2, width / 2, height / 2])
        anchors[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = torch.tensor(rows)
    return anchors


def pixel_buffers(mean: Sequence[float], std: Sequence[float]) -> dict[str, Tensor]:
    return {
        "pixel_mean": torch.tensor(mean).view(3, 1, 1),
        "pixel_std": torch.tensor(std).view(3, 1, 1),
    }


def baseline_weights() -> dict[str, Tensor]:
    return random_weights({**dict(body_shapes()), **dict(head_shapes())})


def attention_weights(**options: int) -> dict[str, Tensor]:
    return random_weights(dict(attention_shapes(**options)), seed=1)
