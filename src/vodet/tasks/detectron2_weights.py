"""Imports weights of detectron2's Faster R-CNN with FPN, and of SLTnet, which is built on it.

The architecture is inferred from the names and shapes of the weights. Both programs order values as
vodet does: background is the last class, the four box deltas of a class are adjacent, and RoI
features are flattened channel by channel. Neither program needs to be installed.

Sources: Y. Wu et al., detectron2; the code that D. Cores, V. M. Brea and M. Mucientes published
with "Short-term anchor linking and long-term self-guided attention for video object detection".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vodet.detector import VideoDetector
from vodet.encodings import FeatureMaps
from vodet.errors import CheckpointError
from vodet.heads.two_stage import TwoStageHead
from vodet.tasks.checkpoint_file import FilePath
from vodet.tasks.weights import Weights, require_weights

# The keys are the number of blocks of each stage, and the shape of the first 3 x 3 convolution: its
# number of output channels and its number of input channels per group.
_BACKBONES: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((3, 4, 6, 3), (64, 64)): "resnet50",
    ((3, 4, 23, 3), (64, 64)): "resnet101",
    ((3, 4, 23, 3), (256, 8)): "resnext101_32x8d",
}
# Defaults of detectron2, in BGR order. _STD is for Caffe's ResNets, which do not scale their input;
# _STD_RESNEXT is for ResNeXt-101 32x8d.
_MEAN = (103.53, 116.28, 123.675)
_STD, _STD_RESNEXT = (1.0, 1.0, 1.0), (57.375, 57.12, 58.395)
_ADVANCED_SHARE = 0.2  # RDN_RATIO of SLTnet, which cannot be read from its weights

_BODY = r"backbone\.bottom_up\."
_ST_HEAD = r"roi_heads\.st_box_head\."


def _level_names(number: int) -> dict[str, str]:
    """Map weight names of detectron2 to names of vodet, for one backbone stage and pyramid level.

    Args:
        number: Number of the stage in detectron2, 2 to 5, as in ``res2``.

    Returns:
        Regular expressions for the names in detectron2, with templates for the names in vodet.
    """
    block, part = rf"{_BODY}res{number}\.(\d+)\.", rf"backbone.net.layer{number - 1}.\1."
    return {
        rf"{block}conv([123])\.weight": rf"{part}conv\2.weight",
        rf"{block}conv([123])\.norm\.(\w+)": rf"{part}bn\2.\3",
        rf"{block}shortcut\.weight": rf"{part}downsample.0.weight",
        rf"{block}shortcut\.norm\.(\w+)": rf"{part}downsample.1.\2",
        rf"backbone\.fpn_lateral{number}\.(\w+)": rf"pyramid.net.inner_blocks.{number - 2}.0.\1",
        rf"backbone\.fpn_output{number}\.(\w+)": rf"pyramid.net.layer_blocks.{number - 2}.0.\1",
    }


_NAMES = {
    rf"{_BODY}stem\.conv1\.weight": r"backbone.net.conv1.weight",
    rf"{_BODY}stem\.conv1\.norm\.(\w+)": r"backbone.net.bn1.\1",
    **_level_names(2),
    **_level_names(3),
    **_level_names(4),
    **_level_names(5),
    r"proposal_generator\.rpn_head\.conv\.(\w+)": r"head.rpn.net.conv.0.0.\1",
    r"proposal_generator\.rpn_head\.objectness_logits\.(\w+)": r"head.rpn.net.cls_logits.\1",
    r"proposal_generator\.rpn_head\.anchor_deltas\.(\w+)": r"head.rpn.net.bbox_pred.\1",
    r"roi_heads\.box_head\.fc1\.(\w+)": r"head.box_head.encoder.1.\1",
    r"roi_heads\.box_head\.fc2\.(\w+)": r"head.box_head.encoder.3.\1",
    r"roi_heads\.box_predictor\.cls_score\.(\w+)": r"head.box_head.classifier.\1",
    r"roi_heads\.box_predictor\.bbox_pred\.(\w+)": r"head.box_head.regressor.\1",
    rf"{_ST_HEAD}fcs\.(\d+)\.(\w+)": r"head.fusion.members.attention.fcs.\1.\2",
    rf"{_ST_HEAD}Wgs\.(\d+)\.(\w+)": r"head.fusion.members.attention.attentions.\1.geometry.\2",
    rf"{_ST_HEAD}Wqs\.(\d+)\.(\w+)": r"head.fusion.members.attention.attentions.\1.query.\2",
    rf"{_ST_HEAD}Wks\.(\d+)\.(\w+)": r"head.fusion.members.attention.attentions.\1.key.\2",
    rf"{_ST_HEAD}Wvs\.(\d+)\.(\w+)": r"head.fusion.members.attention.attentions.\1.value.\2",
    rf"{_ST_HEAD}fc1\.(\w+)": r"head.st_head.encoder.1.\1",
    rf"{_ST_HEAD}fc2\.(\w+)": r"head.st_head.encoder.3.\1",
    r"(?:.+\.)?st_cls_predictor\.(?:cls_score\.)?(weight|bias)": r"head.st_head.classifier.\1",
}
_ANCHORS = r"(?:.+\.)?anchor_generator\.cell_anchors\.\d+"
_NO_WEIGHT = rf"pixel_mean|pixel_std|{_ANCHORS}"
# Weights from which the architecture is inferred, with their number of dimensions.
_REQUIRED = {
    "backbone.bottom_up.res2.0.conv2.weight": 4,
    "backbone.fpn_lateral2.weight": 4,
    "roi_heads.box_head.fc1.weight": 2,
    "roi_heads.box_predictor.cls_score.weight": 2,
}


@dataclass(frozen=True)
class Architecture:
    """The architecture of a network, as inferred from its weights.

    Args:
        backbone: Name of the backbone in timm.
        num_classes: Number of classes, without background.
        pyramid_channels: Number of channels of each level of the feature pyramid.
        width: Width of the fully connected layers of the box head.
        resolution: Number of RoIAlign bins along each side of a RoI.
        mean: Mean of each input channel, in the network's channel order, on a scale of 0 to 255.
        std: Standard deviation of each input channel, like ``mean``.
        states_input: Whether ``mean`` and ``std`` are from the file; if not, they are detectron2's
            defaults.
        candidate_fusion: Name in ``conf/model/head/fusion``: ``none``, ``max`` or ``sltnet``.
        attention: Options of ``LongTermAttention`` that are inferred from the weights.
        unused: Names of weights that are in the file, but that the network does not use.
    """

    backbone: str
    num_classes: int
    pyramid_channels: int
    width: int
    resolution: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    states_input: bool
    candidate_fusion: str = "none"
    attention: dict[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    @property
    def channel_order(self) -> str:
        """The channel order of the input: ``rgb`` if the first mean exceeds the last, else ``bgr``.

        In the usual means, red is the largest value.
        """
        return "rgb" if self.mean[0] > self.mean[-1] else "bgr"

    @property
    def stride_in_1x1(self) -> bool:
        """Whether the stride is in the 1 x 1 convolutions of a block, as in Caffe's ResNets.

        These ResNets do not scale their input, so all values of ``std`` are 1.
        """
        return self.backbone.startswith("resnet") and set(self.std) == {1.0}

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Numbers of classes, without background, that fit the weights: only ``num_classes``."""
        return (self.num_classes,)

    @property
    def bases(self) -> tuple[str, ...]:
        """Names of the files of ``conf/base`` that fit the weights: only one."""
        return ("detectron2_resnet50_fpn",)

    @property
    def overrides(self) -> list[str]:
        """The Hydra overrides from which the config of the network is composed."""
        if self.candidate_fusion == "none":
            return ["data=custom", "window=single", f"base={self.bases[0]}"]
        return ["experiment=imagenet_vid_sltnet", f"model/head/fusion={self.candidate_fusion}"]

    @property
    def summary(self) -> list[str]:
        """Lines of text that describe the network to the user."""
        kinds = {
            "none": "Faster R-CNN",
            "max": "Faster R-CNN with anchor linking",
            "sltnet": "SLTnet",
        }
        attention = "".join(f", {key}={value}" for key, value in self.attention.items())
        origin = "from the file" if self.states_input else "defaults of detectron2"
        place = "1 x 1" if self.stride_in_1x1 else "3 x 3"
        return [
            f"{kinds[self.candidate_fusion]}, {self.backbone}, {self.num_classes} classes"
            f"{attention}",
            f"Input: {self.channel_order.upper()}, mean {list(self.mean)}, std {list(self.std)} "
            f"({origin}), strides in the {place} convolutions",
        ]

    def settings(self) -> dict[str, Any]:
        """Return config values that describe the architecture, by key, such as ``head.width``."""
        return {
            "backbone.name": self.backbone,
            "backbone.pretrained": False,
            "backbone.frozen_norm": True,
            "backbone.mean": list(self.mean),
            "backbone.std": list(self.std),
            "backbone.channel_order": self.channel_order,
            "backbone.padding": "mean",
            "backbone.stride_in_1x1": self.stride_in_1x1,
            "pyramid.channels": self.pyramid_channels,
            "head.width": self.width,
            "head.resolution": self.resolution,
            **{f"head.fusion.attention.{key}": value for key, value in self.attention.items()},
        }

    def place_of(self, name: str) -> str | None:
        """Return the name that an entry of the file has in `VideoDetector`.

        Returns ``""`` for an entry that is not a weight, such as ``pixel_mean``, and None for an
        unknown name.
        """
        return "" if re.fullmatch(_NO_WEIGHT, name) else vodet_name(name)

    def arranged(self, weights: Weights, num_classes: int) -> Weights:
        """Return the weights, with 1 x 1 convolutions of SLTnet's attention as linear layers.

        The order of the classes is unchanged, because detectron2 and vodet use the same order.
        """
        return {
            name: value[:, :, 0, 0]
            if re.match(_ST_HEAD, name) and value.shape[2:] == (1, 1)
            else value
            for name, value in weights.items()
        }

    def check(self, detector: VideoDetector, weights: Weights, path: FilePath) -> None:
        """Compare the anchors in the file with the anchors that the detector computes.

        Only files of older versions of detectron2 contain anchors.

        Raises:
            CheckpointError: If the anchors differ.
        """
        names = sorted(name for name in weights if re.fullmatch(_ANCHORS, name))
        if not names or not isinstance(detector.head, TwoStageHead):
            return
        cells = FeatureMaps(tuple(torch.zeros(1, n, 1, 1) for n in detector.pyramid.spec.channels))
        expected = detector.head.rpn.anchors(cells)
        found = [weights[name].float() for name in names]
        is_same = len(found) == len(expected) and all(
            ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=0.01)
            for ours, theirs in zip(expected, found, strict=True)
        )
        if not is_same:
            shown = [[level.round().tolist() for level in levels] for levels in (expected, found)]
            msg = (
                f"The anchors in {path} are not supported: expected {shown[0]}, found {shown[1]}. "
                "Use weights that were trained with the expected anchors."
            )
            raise CheckpointError(msg)


def architecture_of(weights: Weights, path: FilePath) -> Architecture:
    """Infer the architecture of a network from its weights.

    Args:
        weights: The weights, by their names in detectron2.
        path: The file of the weights, for error messages.

    Raises:
        CheckpointError: If the architecture is not supported.
    """
    require_weights(weights, _REQUIRED, "detectron2", path)
    backbone = _backbone(weights, path)
    channels = len(weights["backbone.fpn_lateral2.weight"])
    width, features = weights["roi_heads.box_head.fc1.weight"].shape
    default = _STD_RESNEXT if backbone.startswith("resnext") else _STD
    has_attention = any(re.match(rf"{_ST_HEAD}fcs\.", name) for name in weights)
    has_st_head = any(re.match(_ST_HEAD, name) for name in weights)
    attention, unused = _attention(weights, path) if has_attention else ({}, ())
    return Architecture(
        backbone=backbone,
        num_classes=len(weights["roi_heads.box_predictor.cls_score.weight"]) - 1,
        pyramid_channels=channels,
        width=width,
        resolution=math.isqrt(features // channels),
        mean=_channels(weights.get("pixel_mean"), _MEAN),
        std=_channels(weights.get("pixel_std"), default),
        states_input={"pixel_mean", "pixel_std"} <= weights.keys(),
        candidate_fusion="sltnet" if has_attention else "max" if has_st_head else "none",
        attention=attention,
        unused=unused,
    )


def vodet_name(name: str) -> str | None:
    """Return the name that a weight of detectron2 has in `VideoDetector`, or None."""
    for pattern, replacement in _NAMES.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return None


def _backbone(weights: Weights, path: FilePath) -> str:
    blocks = tuple(_count(weights, rf"{_BODY}res{number}\.(\d+)\.") for number in range(2, 6))
    kernel = tuple(weights["backbone.bottom_up.res2.0.conv2.weight"].shape[:2])
    if (blocks, kernel) not in _BACKBONES:
        supported = "; ".join(
            f"{name} ({blocks}, {kernel[0]}, {kernel[1]})"
            for (blocks, kernel), name in _BACKBONES.items()
        )
        msg = (
            f"The backbone in {path} is not supported: its stages have {blocks} blocks, and its "
            f"first 3 x 3 convolution has {kernel[0]} output channels and {kernel[1]} input "
            f"channels per group. Supported backbones, with the same numbers: {supported}."
        )
        raise CheckpointError(msg)
    return _BACKBONES[blocks, kernel]


def _attention(weights: Weights, path: FilePath) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the options of SLTnet's long-term attention and the names of its unused weights."""
    fcs, queries = (_count(weights, rf"{_ST_HEAD}{kind}\.(\d+)\.") for kind in ("fcs", "Wqs"))
    advanced = queries - fcs
    if advanced not in (0, 1) or fcs <= advanced:
        msg = (
            f"The attention in {path} is not supported: roi_heads.st_box_head must have as many "
            "layers Wqs as layers fcs, or one more if SLTnet's advanced stage is on; found "
            f"{queries} Wqs and {fcs} fcs. Use weights of an unmodified SLTnet."
        )
        raise CheckpointError(msg)
    geometry = tuple(name for name in weights if re.match(rf"{_ST_HEAD}Wgs\.", name))
    needed = {"roi_heads.st_box_head.fcs.0.weight": 2}
    if geometry:
        needed["roi_heads.st_box_head.Wgs.0.weight"] = 4
    require_weights(weights, needed, "detectron2", path)
    # With its option LOCATION_FREE, SLTnet has these layers but does not use them. The biases start
    # at zero, so they are still zero only in this case.
    is_used = any(bool(weights[name].any()) for name in geometry if name.endswith("bias"))
    options = {
        "width": len(weights["roi_heads.st_box_head.fcs.0.weight"]),
        "layers": fcs - advanced,
        "advanced_share": _ADVANCED_SHARE * advanced,
        "geometry": is_used,
    }
    if geometry:
        options["group_width"] = weights["roi_heads.st_box_head.Wgs.0.weight"].shape[1]
    return options, () if is_used else geometry


def _count(weights: Weights, pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


def _channels(found: Tensor | None, default: tuple[float, ...]) -> tuple[float, ...]:
    if found is None:
        return default
    values = found.float().flatten().numpy()
    return tuple(float(str(value)) for value in values)  # 103.53 instead of 103.52999877929688
