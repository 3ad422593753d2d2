"""Detectors of torchvision with random weights, lively enough that they find many objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

# 96 makes 3 rows at stride 32 and 2 at 64, which reach beyond the frame; 130 needs padding.
SIZE = (96, 130)


def smooth_frames(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 7, 9, generator=generator)
    fine = torch.rand(count, 3, *size, generator=generator)
    smooth = F.interpolate(coarse, size=size, mode="bicubic")
    return (255 * (0.7 * smooth + 0.3 * fine).clamp(0, 1)).to(torch.uint8)


def resnet_fpn(
    weights: None,
    weights_backbone: None,
    num_classes: int,
    name: str = "resnet18",
    norm: type = FrozenBatchNorm2d,
    **options: Any,
) -> FasterRCNN:
    """As fasterrcnn_resnet50_fpn, with another backbone."""
    backbone = resnet_fpn_backbone(backbone_name=name, weights=None, norm_layer=norm)
    return FasterRCNN(backbone, num_classes, **options)


def lively(
    build: Callable[..., FasterRCNN],
    never: Sequence[int] = (),
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    proposals: int = 60,
    **options: object,
) -> FasterRCNN:
    """Build a detector that takes frames of this size as they are, without resizing.

    Args:
        never: Classes that it never predicts, as detectors for COCO do.
        proposals: Number of proposals of a frame; the default of torchvision takes long.
    """
    torch.manual_seed(seed)
    limits = {"min_size": min(size), "max_size": max(size), "rpn_post_nms_top_n_test": proposals}
    net = build(weights=None, weights_backbone=None, **limits, **options)
    return enlivened(net.eval(), never, size)


@torch.no_grad()
def enlivened(
    net: FasterRCNN, never: Sequence[int] = (), size: tuple[int, int] = SIZE
) -> FasterRCNN:
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        if name.endswith("running_mean"):
            value.normal_(0, 0.2)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.ndim == 1:
            value.add_(torch.randn_like(value), alpha=0.1)
    predictor = net.roi_heads.box_predictor
    frame = smooth_frames(1, size)[0] / 255
    for layer, std in (
        (net.rpn.head.cls_logits, 3.0),
        (net.rpn.head.bbox_pred, 0.3),
        (predictor.cls_score, 3.0),
        (predictor.bbox_pred, 1.0),
    ):
        standardise(net, layer, std, frame)
    predictor.cls_score.bias[list(never)] = -40
    return net


def standardise(net: nn.Module, layer: nn.Module, std: float, frame: Tensor) -> None:
    """Scale and shift the outputs of a layer so that each has a mean of 0 and this deviation."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(
        lambda module, inputs, output: seen.append(output.transpose(0, 1).flatten(1))
    )
    net([frame])
    hook.remove()
    outputs = torch.cat(seen, dim=1)
    scale = std / outputs.std(dim=1)
    layer.bias.sub_(outputs.mean(dim=1)).mul_(scale)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
