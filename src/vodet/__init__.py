"""vodet: train, evaluate and run video object detectors.

The names below are the public API; importing this package imports nothing else before one of them
is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vodet.data.datamodule import ClipDataModule
    from vodet.data.dataset import Source
    from vodet.data.resize import Letterbox, Resize
    from vodet.data.st_coco import read_st_coco
    from vodet.detector import VideoDetector
    from vodet.errors import VodetError
    from vodet.features.backbone import TimmBackbone
    from vodet.fusion.stf import STF
    from vodet.heads.centernet import CenterNetHead
    from vodet.inference.drawing import draw_detections
    from vodet.streaming import StreamingDetector
    from vodet.structures import FeatureMaps, FeatureSpec, Window
    from vodet.tasks.checkpoint import load
    from vodet.tasks.detection import VideoDetectionTask

__version__ = "0.1.0"

_HOMES = {
    "STF": "vodet.fusion.stf",
    "CenterNetHead": "vodet.heads.centernet",
    "ClipDataModule": "vodet.data.datamodule",
    "FeatureMaps": "vodet.structures",
    "FeatureSpec": "vodet.structures",
    "Letterbox": "vodet.data.resize",
    "Resize": "vodet.data.resize",
    "Source": "vodet.data.dataset",
    "StreamingDetector": "vodet.streaming",
    "TimmBackbone": "vodet.features.backbone",
    "VideoDetectionTask": "vodet.tasks.detection",
    "VideoDetector": "vodet.detector",
    "VodetError": "vodet.errors",
    "Window": "vodet.structures",
    "draw_detections": "vodet.inference.drawing",
    "load": "vodet.tasks.checkpoint",
    "read_st_coco": "vodet.data.st_coco",
}

__all__ = [
    "STF",
    "CenterNetHead",
    "ClipDataModule",
    "FeatureMaps",
    "FeatureSpec",
    "Letterbox",
    "Resize",
    "Source",
    "StreamingDetector",
    "TimmBackbone",
    "VideoDetectionTask",
    "VideoDetector",
    "VodetError",
    "Window",
    "draw_detections",
    "load",
    "read_st_coco",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'vodet' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
