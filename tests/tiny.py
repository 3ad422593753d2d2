"""Small detectors and frames for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vodet.cli.app import config_dir
from vodet.data.resize import OriginalSize
from vodet.detector import VideoDetector
from vodet.features.backbone import TimmBackbone
from vodet.features.pyramid import Projection, SumNeck
from vodet.heads.centernet import CenterNetHead
from vodet.structures import FrameInfo, Window


def fusion_of(name: str) -> Callable[..., Any]:
    """The factory that conf/model/fusion/NAME.yaml describes."""
    factory: Callable[..., Any] = instantiate(
        OmegaConf.load(config_dir() / "model" / "fusion" / f"{name}.yaml")
    )
    return factory


def fusion_names() -> list[str]:
    return sorted(path.stem for path in (config_dir() / "model" / "fusion").glob("*.yaml"))


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
            torch.nn.init.normal_(weight, std=0.2)
    with torch.no_grad():
        detector.head.size.out.weight.mul_(0.1)
        detector.head.size.out.bias.fill_(4)  # boxes of some cells
    return detector.eval()


def frame_info(video: str = "v", number: int = 0, size: tuple[int, int] = (64, 64)) -> FrameInfo:
    return FrameInfo(video, number, number, size, size)


def random_frames(count: int, size: tuple[int, int] = (64, 64), seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)
