"""Imports weights of detectron2's Faster R-CNN with FPN, and of SLTnet, which is built on it.

The architecture is read from the names and shapes of the weights. Both programs order values as
vodet does: background is the last class, the four deltas of a class are adjacent, and RoI features
are flattened channel by channel. Neither program needs to be installed.

Sources: Y. Wu et al., detectron2; the code that D. Cores, V. M. Brea and M. Mucientes published
with "Short-term anchor linking and long-term self-guided attention for video object detection".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from omegaconf import OmegaConf
from torch import Tensor

from vodet.detector import VideoDetector
from vodet.encodings import FeatureMaps
from vodet.errors import CheckpointError
from vodet.heads.two_stage import TwoStageHead
from vodet.tasks.build import build_detector
from vodet.tasks.checkpoint_file import WHAT_READS_WHAT, FilePath
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.init_from import InitReport
from vodet.tasks.weights import difference_of, first_ten

Weights = Mapping[str, Tensor]

# The keys are the number of blocks of each stage, and the shape of the first 3 x 3 convolution: its
# number of output channels and its number of input channels per group.
_BACKBONES: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((3, 4, 6, 3), (64, 64)): "resnet50",
    ((3, 4, 23, 3), (64, 64)): "resnet101",
    ((3, 4, 23, 3), (256, 8)): "resnext101_32x8d",
}
# Defaults of detectron2, in BGR order. The first standard deviation is for Caffe's ResNets, which
# do not scale their input, the second for ResNeXt-101 32x8d.
_MEAN = (103.53, 116.28, 123.675)
_STD, _STD_RESNEXT = (1.0, 1.0, 1.0), (57.375, 57.12, 58.395)
_ADVANCED_SHARE = 0.2  # RDN_RATIO of SLTnet, which cannot be read from its weights

_BODY = r"backbone\.bottom_up\."
_ST_HEAD = r"roi_heads\.st_box_head\."


def _level_names(number: int) -> dict[str, str]:
    """Return the names of a stage of the backbone and of its level of the pyramid."""
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
    r"roi_heads\.box_head\.fc1\.(\w+)": r"head.box_head.encoder.0.\1",
    r"roi_heads\.box_head\.fc2\.(\w+)": r"head.box_head.encoder.2.\1",
    r"roi_heads\.box_predictor\.cls_score\.(\w+)": r"head.box_head.classifier.\1",
    r"roi_heads\.box_predictor\.bbox_pred\.(\w+)": r"head.box_head.regressor.\1",
    rf"{_ST_HEAD}fcs\.(\d+)\.(\w+)": r"head.fusion.members.attention.fcs.\1.\2",
    rf"{_ST_HEAD}Wgs\.(\d+)\.(\w+)": r"head.fusion.members.attention.attentions.\1.geometry.\2",
    rf"{_ST_HEAD}Wqs\.(\d+)\.(\w+)": r"head.fusion.members.attention.attentions.\1.query.\2",
    rf"{_ST_HEAD}Wks\.(\d+)\.(\w+)": r"head.fusion.members.attention.attentions.\1.key.\2",
    rf"{_ST_HEAD}Wvs\.(\d+)\.(\w+)": r"head.fusion.members.attention.attentions.\1.value.\2",
    rf"{_ST_HEAD}fc1\.(\w+)": r"head.st_head.encoder.0.\1",
    rf"{_ST_HEAD}fc2\.(\w+)": r"head.st_head.encoder.2.\1",
    r"(?:.+\.)?st_cls_predictor\.(?:cls_score\.)?(weight|bias)": r"head.st_head.classifier.\1",
}
_ANCHORS = r"(?:.+\.)?anchor_generator\.cell_anchors\.\d+"
_NO_WEIGHT = rf"pixel_mean|pixel_std|{_ANCHORS}"
# Weights that the architecture is read from, with their number of dimensions.
_REQUIRED = {
    "backbone.bottom_up.res2.0.conv2.weight": 4,
    "backbone.fpn_lateral2.weight": 4,
    "roi_heads.box_head.fc1.weight": 2,
    "roi_heads.box_predictor.cls_score.weight": 2,
}


@dataclass(frozen=True)
class Architecture:
    """The architecture of a network, as read from its weights.

    Args:
        backbone: Name of the backbone in timm.
        num_classes: Number of classes, without background.
        pyramid_channels: Channels of the levels.
        width: Width of the fully connected layers of the box head.
        resolution: Bins along each side of a RoI.
        mean: Mean of the three channels, in the network's channel order, on a scale of 0 to 255.
        std: Standard deviation of the three channels, like ``mean``.
        states_input: Whether mean and std are in the file; if not, they are detectron2's defaults.
        candidate_fusion: Name in ``conf/model/head/fusion``: ``none``, ``max`` or ``sltnet``.
        attention: Options of ``LongTermAttention`` that are read from the weights.
        unused: Names of weights that the network does not use.
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
        """``rgb`` if the first mean exceeds the last, as red has the highest mean; else ``bgr``."""
        return "rgb" if self.mean[0] > self.mean[-1] else "bgr"

    @property
    def stride_in_1x1(self) -> bool:
        """Whether the backbone is one of Caffe's ResNets, whose input is not scaled."""
        return self.backbone.startswith("resnet") and set(self.std) == {1.0}

    def settings(self) -> dict[str, Any]:
        """Return the values of the architecture for a detector's config, by dotted key."""
        return {
            "backbone.name": self.backbone,
            "backbone.pretrained": False,
            "backbone.frozen_norm": True,
            "backbone.mean": list(self.mean),
            "backbone.std": list(self.std),
            "backbone.channel_order": self.channel_order,
            "backbone.stride_in_1x1": self.stride_in_1x1,
            "pyramid.channels": self.pyramid_channels,
            "head.width": self.width,
            "head.resolution": self.resolution,
            **{f"head.fusion.attention.{key}": value for key, value in self.attention.items()},
        }


def architecture_of(weights: Weights, path: FilePath) -> Architecture:
    """Determine the architecture of a network from its weights.

    Args:
        weights: The weights, by their names in detectron2.
        path: The file of the weights, for error messages.

    Raises:
        CheckpointError: If the architecture is not supported.
    """
    _require(weights, _REQUIRED, path)
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


def convert(
    weights: Weights,
    architecture: Architecture,
    model: dict[str, Any],
    class_names: Sequence[str],
    path: FilePath,
) -> tuple[dict[str, Any], InitReport]:
    """Convert weights to a checkpoint that `vodet.load` can read.

    Args:
        weights: The weights, by their names in detectron2.
        architecture: The architecture that was read from the weights.
        model: Config of the detector as plain values, with the settings of ``architecture``.
        class_names: Names of the classes, in the order of the weights.
        path: The file of the weights, for error messages.

    Returns:
        The checkpoint, and a report of the weights in it.

    Raises:
        CheckpointError: If a weight is missing, a weight has no place in the detector, or shapes or
            anchors differ.
    """
    try:
        detector = build_detector(OmegaConf.create(model), class_names)
    except Exception as error:  # shapes of weights may lead to any error
        msg = f"No detector can be built for the weights of {path}: {error.__cause__ or error}"
        raise CheckpointError(msg) from error
    _check_anchors(detector, weights, path)
    own = detector.state_dict()
    found = _placed(weights, own, architecture.unused, path)
    detector.load_state_dict(own | found)
    task = VideoDetectionTask(detector, config={"model": model})
    checkpoint = {"state_dict": task.state_dict(), "pytorch-lightning_version": L.__version__}
    task.on_save_checkpoint(checkpoint)
    report = InitReport(
        path=str(path),
        loaded=tuple(found),
        new=(),
        left=architecture.unused,
        reshaped=(),
        class_names=None,
    )
    return checkpoint, report


def vodet_name(name: str) -> str | None:
    """Return the name in `VideoDetector` of a weight of detectron2, or None if it has none."""
    for pattern, replacement in _NAMES.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return None


def _require(weights: Weights, dimensions: Mapping[str, int], path: FilePath) -> None:
    faults = [
        f"{name}: expected {expected} dimensions of at least 1, found "
        + (f"shape {tuple(weights[name].shape)}" if name in weights else "no such weight")
        for name, expected in dimensions.items()
        if name not in weights or weights[name].ndim != expected or not weights[name].numel()
    ]
    if faults:
        msg = (
            f"Expected a Faster R-CNN with FPN and the names of detectron2 in {path}, found "
            f"{len(weights)} weights such as {min(weights)!r}, with "
            f"{first_ten(faults, 'difference')}\n" + WHAT_READS_WHAT
        )
        raise CheckpointError(msg)


def _backbone(weights: Weights, path: FilePath) -> str:
    blocks = tuple(_count(weights, rf"{_BODY}res{number}\.(\d+)\.") for number in range(2, 6))
    kernel = tuple(weights["backbone.bottom_up.res2.0.conv2.weight"].shape[:2])
    if (blocks, kernel) not in _BACKBONES:
        supported = "; ".join(
            f"{name}: {blocks}, {kernel[0]} and {kernel[1]}"
            for (blocks, kernel), name in _BACKBONES.items()
        )
        msg = (
            f"The backbone of {path} is not supported: its stages have {blocks} blocks, and its "
            f"first 3 x 3 convolution has a width of {kernel[0]} and {kernel[1]} channels per "
            f"group. Expected one of {supported}."
        )
        raise CheckpointError(msg)
    return _BACKBONES[blocks, kernel]


def _attention(weights: Weights, path: FilePath) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the options of the long-term attention and the names of its unused weights."""
    fcs, queries = (_count(weights, rf"{_ST_HEAD}{kind}\.(\d+)\.") for kind in ("fcs", "Wqs"))
    advanced = queries - fcs
    if advanced not in (0, 1) or fcs <= advanced:
        msg = (
            f"The attention of {path} is not supported: roi_heads.st_box_head needs as many Wqs as "
            f"fcs, or one more Wqs with an advanced stage; found {fcs} fcs and {queries} Wqs."
        )
        raise CheckpointError(msg)
    geometry = tuple(name for name in weights if re.match(rf"{_ST_HEAD}Wgs\.", name))
    needed = {"roi_heads.st_box_head.fcs.0.weight": 2}
    if geometry:
        needed["roi_heads.st_box_head.Wgs.0.weight"] = 4
    _require(weights, needed, path)
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


def _check_anchors(detector: VideoDetector, weights: Weights, path: FilePath) -> None:
    """Compare the anchors that older files store with the anchors that vodet computes."""
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
            f"The anchors of {path} differ from the detector's: expected {shown[0]}, "
            f"found {shown[1]}."
        )
        raise CheckpointError(msg)


def _placed(
    weights: Weights, own: Weights, unused: Sequence[str], path: FilePath
) -> dict[str, Tensor]:
    """Return weights by their names in vodet; names of both sides must match one to one."""
    found: dict[str, Tensor] = {}
    faults: list[str] = []
    for name, value in weights.items():
        if name in unused or re.fullmatch(_NO_WEIGHT, name):
            continue
        place = vodet_name(name)
        if place is None or place not in own:
            faults.append(f"{name}: shape {tuple(value.shape)}, no place in the detector")
            continue
        expected = own[place].shape
        if len(expected) == 2 and value.shape[2:] == (1, 1):
            value = value[:, :, 0, 0]  # a 1 x 1 convolution is a linear layer
        if place in found:
            faults.append(f"{name}: a second weight for {place}")
        elif difference := difference_of(own[place], value):
            faults.append(f"{name}: {difference}")
        found[place] = value
    faults += [
        f"{name}: expected shape {tuple(own[name].shape)}, no weight for it in the file"
        for name in own
        if name not in found and not name.endswith("num_batches_tracked")
    ]
    if faults:
        msg = (
            f"The weights of {path} do not fit the detector that was built from their names and "
            f"shapes: {first_ten(faults, 'difference')}"
        )
        raise CheckpointError(msg)
    return found
