"""Small detectors and frames for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vodet.cli.app import config_dir
from vodet.data.frames.resize import OriginalSize
from vodet.detector import VideoDetector
from vodet.encodings import CandidateSpec
from vodet.features.backbone import TimmBackbone
from vodet.features.pafpn import PAFPN
from vodet.features.pyramid import FPN, Projection, SumNeck
from vodet.fusion.none import NoFusion
from vodet.fusion_chain import FusionChain
from vodet.heads.anchors import Anchors
from vodet.heads.centernet import CenterNetHead
from vodet.heads.linking import ProposalLimits
from vodet.heads.one_stage import OneStageHead
from vodet.heads.two_stage import TwoStageHead
from vodet.structures import FrameInfo, Window


def fusion_of(name: str) -> Callable[..., Any]:
    """The factory that conf/model/fusion/NAME.yaml describes."""
    factory: Callable[..., Any] = instantiate(
        OmegaConf.load(config_dir() / "model" / "fusion" / f"{name}.yaml")
    )
    return factory


def fusion_names() -> list[str]:
    return sorted(path.stem for path in (config_dir() / "model" / "fusion").glob("*.yaml"))


def candidate_fusion_names() -> list[str]:
    folder = config_dir() / "model" / "head" / "fusion"
    return sorted(path.stem for path in folder.glob("*.yaml"))


def unlinked_fusion_names() -> list[str]:
    """The candidate fusions that work in heads whose candidates depend on a single frame."""
    spec = CandidateSpec(16)
    chains = {
        name: FusionChain(spec, candidate_fusions_of(name)) for name in candidate_fusion_names()
    }
    return [name for name, chain in chains.items() if not chain.needs_links]


# Settings that are small, and remember something within a few frames, where a fusion has them.
_SMALL = {
    "group_width": 8,
    "heads": 2,
    "keys_per_frame": 6,
    "key_frame_interval": 2,
    "num_key_frames": 3,
    "stages": [8, 4, 3],
    "feedforward": 16,
    "dropout": 0.0,
}


def head_config_of(name: str, *overrides: str) -> DictConfig:
    """The config of a two-stage head with conf/model/head/fusion/NAME.yaml, small."""
    choices = ("model/head=two_stage", f"model/head/fusion={name}", "model.head.width=16")
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("train", [*choices, "run_dir=unused"])
        small = [
            f"model.head.fusion.{fusion}.{key}={_SMALL[key]}"
            for fusion, options in (config.model.head.fusion or {}).items()
            for key in options
            if key in _SMALL
        ]
        config = hydra.compose("train", [*choices, *small, *overrides, "run_dir=unused"])
    return config.model.head


def candidate_fusions_of(name: str, *overrides: str) -> dict[str, Callable[..., Any]]:
    """The factories that conf/model/head/fusion/NAME.yaml describes, small; by name."""
    return dict(instantiate(head_config_of(name, *overrides).fusion or {}))


def tiny_two_stage(
    candidate_fusions: str | dict[str, Callable[..., Any]],
    window: Window,
    fusion: Callable[..., Any] = NoFusion,
    class_names: Sequence[str] = ("car", "dog", "kite"),
    seed: int = 0,
    **head: Any,
) -> VideoDetector:
    """A two-stage detector of some ten thousand weights, in eval mode, with lively outputs.

    Its candidate fusions are given by name, of conf/model/head/fusion, or as factories.
    """
    torch.manual_seed(seed)
    if isinstance(candidate_fusions, str):
        head = {"refine": head_config_of(candidate_fusions).refine} | head
        candidate_fusions = candidate_fusions_of(candidate_fusions)
    limits = ProposalLimits(pre_nms_top_n=30, post_nms_top_n=20)
    settings = {
        "train_limits": limits,
        "test_limits": limits,
        "width": 16,
        "resolution": 3,
        "anchors": Anchors(scale=3.0),
        "rpn_batch_size_per_image": 32,
        "box_batch_size_per_image": 16,
    }
    detector = VideoDetector(
        TimmBackbone("test_resnet", strides=(4, 8)),
        pyramid=partial(FPN, channels=8),
        fusion=fusion,
        head=partial(TwoStageHead, fusion=candidate_fusions, **(settings | head)),
        window=window,
        class_names=class_names,
        resize=OriginalSize(),
    )
    for name, weight in detector.named_parameters():
        if "bn" not in name and weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    with torch.no_grad():
        detector.head.rpn.net.bbox_pred.weight.mul_(0.2)
        detector.head.box_head.classifier.weight.mul_(3)
    return detector.eval()


def tiny_one_stage(
    candidate_fusions: str | dict[str, Callable[..., Any]],
    window: Window,
    fusion: Callable[..., Any] = NoFusion,
    class_names: Sequence[str] = ("car", "dog", "kite"),
    seed: int = 0,
    **head: Any,
) -> VideoDetector:
    """A one-stage detector of some thousand weights, in eval mode, with lively outputs.

    Its candidate fusions are given by name, of conf/model/head/fusion, or as factories.
    """
    torch.manual_seed(seed)
    if isinstance(candidate_fusions, str):
        head = {"refine": head_config_of(candidate_fusions).refine} | head
        candidate_fusions = candidate_fusions_of(candidate_fusions)
    settings = {"width": 8, "num_candidates": 20, "pre_nms_top_n": 60}
    detector = VideoDetector(
        TimmBackbone("test_resnet", strides=(4, 8)),
        pyramid=partial(PAFPN, channels=8),
        fusion=fusion,
        head=partial(OneStageHead, fusion=candidate_fusions, **(settings | head)),
        window=window,
        class_names=class_names,
        resize=OriginalSize(),
    )
    weights = dict(detector.named_parameters())
    for name in sorted(weights, key=lambda name: "fusion" in name):  # the same base for all fusions
        if (weight := weights[name]).ndim > 1:
            torch.nn.init.normal_(weight, std=1.5 * weight[0].numel() ** -0.5)
    for level in detector.head.base:
        torch.nn.init.zeros_(level.class_out.bias)
        level.box_out.bias.data.copy_(torch.tensor([0.0, 0, 1, 1, 0]))
        level.box_out.weight.data[2:4].mul_(0.2)  # boxes of a few cells, which suppression keeps
    scales = {"st_classifier": 0.3, "st_objectness": 0.05, "st_regressor": 0.05}
    for layer, scale in ((getattr(detector.head, name), scale) for name, scale in scales.items()):
        if layer is not None:
            layer.weight.data.mul_(scale)
            torch.nn.init.zeros_(layer.bias)
    return detector.eval()


def tiny_detector(
    fusion: Callable[..., Any],
    window: Window,
    class_names: Sequence[str] = ("car", "dog", "kite"),
    seed: int = 0,
) -> VideoDetector:
    """A detector of a few thousand weights, in eval mode, with lively outputs."""
    torch.manual_seed(seed)
    detector = VideoDetector(
        TimmBackbone("test_resnet", strides=(4, 8)),
        pyramid=partial(Projection, channels=8),
        fusion=fusion,
        head=partial(CenterNetHead, neck=partial(SumNeck, channels=8), channels=8),
        window=window,
        class_names=class_names,
        resize=OriginalSize(),
    )
    for name, weight in detector.named_parameters():
        if "bn" not in name and weight.ndim > 1:
            torch.nn.init.normal_(
                weight, std=0.2 if weight[0].numel() <= 300 else weight[0].numel() ** -0.5
            )
    with torch.no_grad():
        detector.head.size.out.weight.mul_(0.1)
        detector.head.size.out.bias.fill_(4)  # boxes of some cells
    return detector.eval()


def frame_info(video: str = "v", number: int = 0, size: tuple[int, int] = (64, 64)) -> FrameInfo:
    return FrameInfo(video, number, number, size, size)


def random_frames(count: int, size: tuple[int, int] = (64, 64), seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)
