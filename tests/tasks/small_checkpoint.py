"""A small checkpoint of vodet, for tests that spoil it."""

from __future__ import annotations

from functools import cache
from typing import Any

from tiny import tiny_detector
from vodet.detector import VideoDetector
from vodet.fusion.mean import MeanFusion
from vodet.model_folder import model_card
from vodet.structures import Window

CLASS_NAMES = ("car", "dog", "kite")

# What tests/tiny.py builds, as a config.
MODEL: dict[str, Any] = {
    "_target_": "vodet.detector.VideoDetector",
    "backbone": {
        "_target_": "vodet.features.backbone.TimmBackbone",
        "name": "test_resnet",
        "strides": [4, 8],
        "pretrained": True,
        "checkpoint_path": "a/file/of/the/training",
    },
    "pyramid": {
        "_target_": "vodet.features.pyramid.Projection",
        "_partial_": True,
        "channels": 8,
    },
    "fusion": {"_target_": "vodet.fusion.mean.MeanFusion", "_partial_": True},
    "head": {
        "_target_": "vodet.heads.centernet.CenterNetHead",
        "_partial_": True,
        "neck": {
            "_target_": "vodet.features.pyramid.SumNeck",
            "_partial_": True,
            "channels": 8,
        },
        "channels": 8,
    },
    "window": {"_target_": "vodet.structures.Window", "past": 1},
    "resize": {"_target_": "vodet.data.frames.resize.OriginalSize"},
}


def detector(**options: Any) -> VideoDetector:
    return tiny_detector(MeanFusion, Window(past=1), **options)


def contents(model: Any = MODEL, **changes: Any) -> dict[str, Any]:
    card = model_card(_trained(), {"model": model})
    state = {f"detector.{name}": value for name, value in _trained().state_dict().items()}
    return {"state_dict": state, "vodet": card | changes}


@cache
def _trained() -> VideoDetector:
    return detector()
