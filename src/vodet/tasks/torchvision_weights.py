"""Imports weights of torchvision's Faster R-CNN with FPN and a ResNet or MobileNetV3-Large.

The architecture is inferred from the names and shapes of the weights. In torchvision, background is
the first class. Torchvision's COCO detectors have 91 outputs: background, and one for each category
id from 1 to 90. COCO uses only 80 of these ids. The other 10 outputs were never trained, so vodet
leaves them out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from vodet.detector import VideoDetector
from vodet.errors import CheckpointError
from vodet.tasks.checkpoint_file import FilePath
from vodet.tasks.weights import Weights, require_weights

_OUTPUTS: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
_COCO_ROWS = [row for row, name in enumerate(_OUTPUTS) if row > 0 and name != "N/A"]
COCO = tuple(_OUTPUTS[row] for row in _COCO_ROWS)

# The keys are the number of blocks of each stage, the number of convolutions of a block, and the
# shape of the first 3 x 3 convolution: its number of output channels and its number of input
# channels per group.
_RESNETS: dict[tuple[tuple[int, ...], int, tuple[int, ...]], str] = {
    ((2, 2, 2, 2), 2, (64, 64)): "resnet18",
    ((3, 4, 6, 3), 2, (64, 64)): "resnet34",
    ((3, 4, 6, 3), 3, (64, 64)): "resnet50",
    ((3, 4, 23, 3), 3, (64, 64)): "resnet101",
    ((3, 8, 36, 3), 3, (64, 64)): "resnet152",
    ((3, 4, 6, 3), 3, (128, 4)): "resnext50_32x4d",
    ((3, 4, 23, 3), 3, (256, 8)): "resnext101_32x8d",
    ((3, 4, 6, 3), 3, (128, 128)): "wide_resnet50_2",
    ((3, 4, 23, 3), 3, (128, 128)): "wide_resnet101_2",
}
_MOBILENET = "mobilenet_v3_large"
_SUPPORTED = ", ".join((*_RESNETS.values(), _MOBILENET))
_BODY = r"backbone\.body\."
_FPN = r"backbone\.fpn\.((?:inner|layer)_blocks\.\d+)\."
_PREDICTOR = "roi_heads.box_predictor"
_NAMES = {
    rf"{_BODY}(\d.+)": r"backbone.net.features.\1",  # MobileNet
    rf"{_BODY}(.+)": r"backbone.net.\1",
    rf"{_FPN}(weight|bias)": r"pyramid.net.\1.0.\2",  # before torchvision 0.13
    rf"{_FPN}(\d+\..+)": r"pyramid.net.\1.\2",
    r"rpn\.head\.conv\.(weight|bias)": r"head.rpn.net.conv.0.0.\1",  # before torchvision 0.13
    r"rpn\.head\.(.+)": r"head.rpn.net.\1",
    r"roi_heads\.box_head\.fc6\.(\w+)": r"head.box_head.encoder.1.\1",
    r"roi_heads\.box_head\.fc7\.(\w+)": r"head.box_head.encoder.3.\1",
    r"roi_heads\.box_head\.(\d+\..+)": r"head.box_head.encoder.\1",
    r"roi_heads\.box_predictor\.cls_score\.(\w+)": r"head.box_head.classifier.\1",
    r"roi_heads\.box_predictor\.bbox_pred\.(\w+)": r"head.box_head.regressor.\1",
}
# Weights from which the architecture is inferred, with their number of dimensions.
_REQUIRED = {
    f"{_PREDICTOR}.cls_score.weight": 2,
    f"{_PREDICTOR}.bbox_pred.weight": 2,
    f"{_PREDICTOR}.cls_score.bias": 1,
    f"{_PREDICTOR}.bbox_pred.bias": 1,
}
_RESNET_REQUIRED = {"backbone.body.layer1.0.conv2.weight": 4}


@dataclass(frozen=True)
class Architecture:
    """The architecture of a network, as inferred from its weights.

    Args:
        backbone: Name of the backbone: of a ResNet in timm, of a MobileNet in torchvision.
        num_outputs: Number of outputs of the classifier, including background.
        has_fpn_norm: Whether the pyramid has batch norms.
        rpn_convs: Number of 3 x 3 convolutions of the region proposal network.
        box_convs: Number of 3 x 3 convolutions of the box head.
        box_linears: Number of fully connected layers of the box head.
        frozen_norm: Whether the batch norms of the backbone were frozen in training.
    """

    backbone: str
    num_outputs: int
    has_fpn_norm: bool
    rpn_convs: int
    box_convs: int
    box_linears: int
    frozen_norm: bool

    @property
    def class_counts(self) -> tuple[int, ...]:
        """The possible numbers of classes, without background; the first is the default.

        For 91 outputs, these are 80 (the classes of COCO) and 90.
        """
        every = self.num_outputs - 1
        return (len(COCO), every) if self.num_outputs == len(_OUTPUTS) else (every,)

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of weights that are in the file, but that the network does not use: none."""
        return ()

    @property
    def bases(self) -> tuple[str, ...]:
        """Names of the files of ``conf/base`` that fit the weights; the first is the default."""
        if self.backbone == _MOBILENET:
            return ("torchvision_mobilenet_v3_large_fpn", "torchvision_mobilenet_v3_large_320_fpn")
        return (f"torchvision_resnet50_fpn{'_v2' if self.box_convs else ''}",)

    @property
    def overrides(self) -> list[str]:
        """The Hydra overrides from which the config of the network is composed."""
        return ["data=custom", "window=single", f"base={self.bases[0]}"]

    @property
    def norm_eps(self) -> float:
        """The ``eps`` of the backbone's batch norms: 0 if they are frozen, as in COCO detectors.

        With a MobileNet, torchvision always uses 1e-5.
        """
        return 0.0 if self.frozen_norm and self.backbone != _MOBILENET else 1e-5

    @property
    def summary(self) -> list[str]:
        """Lines of text that describe the network to the user."""
        norm = "frozen" if self.frozen_norm else "trained"
        linears = f"{self.box_linears} fully connected layers in the box head"
        return [
            f"Faster R-CNN of torchvision, {self.backbone}, {self.num_outputs} outputs",
            f"{self.rpn_convs} convolutions in the RPN; {self.box_convs} and {linears}; "
            f"{norm} batch norm with eps {self.norm_eps} in the backbone",
        ]

    def settings(self) -> dict[str, Any]:
        """Return config values that describe the architecture, by dotted key."""
        return {
            "backbone.name": self.backbone,
            "backbone.pretrained": False,
            "backbone.frozen_norm": self.frozen_norm,
            "backbone.norm_eps": self.norm_eps,
            "pyramid.norm": self.has_fpn_norm,
            "head.rpn_convs": self.rpn_convs,
            "head.layers.convs": self.box_convs,
            "head.layers.linears": self.box_linears,
        }

    def place_of(self, name: str) -> str | None:
        """Return the name in `VideoDetector` of a torchvision weight; None if it has none."""
        for pattern, replacement in _NAMES.items():
            if match := re.fullmatch(pattern, name):
                return match.expand(replacement)
        return None

    def arranged(self, weights: Weights, num_classes: int) -> Weights:
        """Return the weights with background as the last class, and without unused outputs.

        Args:
            weights: The weights, by their names in torchvision.
            num_classes: One of ``class_counts``.
        """
        is_coco = num_classes == len(COCO) < self.num_outputs - 1
        rows = _COCO_ROWS if is_coco else list(range(1, self.num_outputs))
        changed = {}
        for part in ("weight", "bias"):
            classes, boxes = (f"{_PREDICTOR}.{name}.{part}" for name in ("cls_score", "bbox_pred"))
            changed[classes] = weights[classes][[*rows, 0]]
            changed[boxes] = torch.cat([weights[boxes][4 * row : 4 * row + 4] for row in rows])
        return {**weights, **changed}

    def check(self, detector: VideoDetector, weights: Weights, path: FilePath) -> None:
        """Do nothing: torchvision's files contain only weights, so there is nothing to compare."""


def architecture_of(weights: Weights, path: FilePath) -> Architecture:
    """Infer the architecture of a network from its weights.

    Args:
        weights: The weights, by their names in torchvision.
        path: The file of the weights, for error messages.

    Raises:
        CheckpointError: If the architecture is not supported.
    """
    is_mobilenet = "backbone.body.0.0.weight" in weights
    required = _REQUIRED if is_mobilenet else _RESNET_REQUIRED | _REQUIRED
    require_weights(weights, required, "torchvision", path)
    outputs = len(weights[f"{_PREDICTOR}.cls_score.weight"])
    _check_outputs(weights, outputs, path)
    first_norm = "backbone.body.0.1" if is_mobilenet else "backbone.body.bn1"
    linears = r"roi_heads\.box_head\.(fc\d|\d+)\.weight"
    return Architecture(
        backbone=(_mobilenet if is_mobilenet else _resnet)(weights, path),
        num_outputs=outputs,
        has_fpn_norm="backbone.fpn.inner_blocks.0.1.weight" in weights,
        rpn_convs=max(_count(weights, r"rpn\.head\.conv\.(\d+)\."), 1),
        box_convs=_count(weights, r"roi_heads\.box_head\.(\d+)\.0\.weight"),
        box_linears=_count(weights, linears),
        frozen_norm=f"{first_norm}.num_batches_tracked" not in weights,
    )


def _check_outputs(weights: Weights, outputs: int, path: FilePath) -> None:
    names = {"cls_score.weight": 1, "cls_score.bias": 1, "bbox_pred.weight": 4, "bbox_pred.bias": 4}
    for name, per_class in names.items():
        rows = len(weights[f"{_PREDICTOR}.{name}"])
        if rows != per_class * outputs:
            msg = (
                f"{path}: expected {per_class * outputs} rows in {_PREDICTOR}.{name}, because the "
                f"classifier has {outputs} outputs; found {rows}. Use weights of an unmodified "
                "Faster R-CNN of torchvision."
            )
            raise CheckpointError(msg)


def _mobilenet(weights: Weights, path: FilePath) -> str:
    if "backbone.body.16.0.weight" not in weights:  # the last layer of MobileNetV3-Large
        msg = (
            f"{path} contains a Faster R-CNN of torchvision with a MobileNet other than "
            f"{_MOBILENET}, which is not supported. Use weights with one of the backbones "
            f"{_SUPPORTED}."
        )
        raise CheckpointError(msg)
    return _MOBILENET


def _resnet(weights: Weights, path: FilePath) -> str:
    blocks = tuple(_count(weights, rf"{_BODY}layer{stage}\.(\d+)\.") for stage in range(1, 5))
    convs = _count(weights, rf"{_BODY}layer1\.0\.conv(\d)\.")
    kernel = tuple(weights["backbone.body.layer1.0.conv2.weight"].shape[:2])
    if (blocks, convs, kernel) not in _RESNETS:
        msg = (
            f"The backbone in {path} is not supported: its stages have {blocks} blocks of {convs} "
            f"convolutions, and its first 3 x 3 convolution has {kernel[0]} output channels and "
            f"{kernel[1]} input channels per group. Use weights with one of the backbones "
            f"{_SUPPORTED}."
        )
        raise CheckpointError(msg)
    return _RESNETS[blocks, convs, kernel]


def _count(weights: Weights, pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})
