"""vodet: train, evaluate and run video object detectors.

The names below are the public API; importing this package imports nothing else before one of them
is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vodet.augmented_stream import AugmentedStream
    from vodet.data.annotations.source import Source
    from vodet.data.annotations.st_coco import read_st_coco
    from vodet.data.clips.datamodule import ClipDataModule
    from vodet.data.frames.resize import Letterbox, Resize
    from vodet.detector import VideoDetector
    from vodet.encodings import FeatureMaps, FeatureSpec, RoIs, RoISpec
    from vodet.errors import VodetError
    from vodet.evaluation.evaluator import Evaluator
    from vodet.evaluation.measures import Measures
    from vodet.features.backbone import TimmBackbone
    from vodet.features.pyramid import FPN
    from vodet.fusion.long_term_attention import LongTermAttention
    from vodet.fusion.stf import STF
    from vodet.fusion.tubelet_aggregation import TubeletAggregation
    from vodet.heads.centernet import CenterNetHead
    from vodet.heads.two_stage import TwoStageHead
    from vodet.inference.drawing import draw_detections
    from vodet.streaming import StreamingDetector
    from vodet.structures import Window
    from vodet.tasks.checkpoint import load
    from vodet.tasks.detection import VideoDetectionTask
    from vodet.tasks.init_from import init_from

__version__ = "0.1.0"

_HOMES = {
    "AugmentedStream": "vodet.augmented_stream",
    "FPN": "vodet.features.pyramid",
    "STF": "vodet.fusion.stf",
    "CenterNetHead": "vodet.heads.centernet",
    "ClipDataModule": "vodet.data.clips.datamodule",
    "Evaluator": "vodet.evaluation.evaluator",
    "FeatureMaps": "vodet.encodings",
    "FeatureSpec": "vodet.encodings",
    "Letterbox": "vodet.data.frames.resize",
    "LongTermAttention": "vodet.fusion.long_term_attention",
    "Measures": "vodet.evaluation.measures",
    "Resize": "vodet.data.frames.resize",
    "RoISpec": "vodet.encodings",
    "RoIs": "vodet.encodings",
    "Source": "vodet.data.annotations.source",
    "StreamingDetector": "vodet.streaming",
    "TimmBackbone": "vodet.features.backbone",
    "TubeletAggregation": "vodet.fusion.tubelet_aggregation",
    "TwoStageHead": "vodet.heads.two_stage",
    "VideoDetectionTask": "vodet.tasks.detection",
    "VideoDetector": "vodet.detector",
    "VodetError": "vodet.errors",
    "Window": "vodet.structures",
    "draw_detections": "vodet.inference.drawing",
    "init_from": "vodet.tasks.init_from",
    "load": "vodet.tasks.checkpoint",
    "read_st_coco": "vodet.data.annotations.st_coco",
}

__all__ = [
    "FPN",
    "STF",
    "AugmentedStream",
    "CenterNetHead",
    "ClipDataModule",
    "Evaluator",
    "FeatureMaps",
    "FeatureSpec",
    "Letterbox",
    "LongTermAttention",
    "Measures",
    "Resize",
    "RoISpec",
    "RoIs",
    "Source",
    "StreamingDetector",
    "TimmBackbone",
    "TubeletAggregation",
    "TwoStageHead",
    "VideoDetectionTask",
    "VideoDetector",
    "VodetError",
    "Window",
    "draw_detections",
    "init_from",
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
