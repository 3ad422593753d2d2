"""The names that users build on.

To add or remove one is a decision: change the list here with it, and say so in the release notes.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

import vodet

NAMES = [
    "AugmentedStream",
    "CandidateFusion",
    "CandidateSpec",
    "Candidates",
    "CenterNetHead",
    "ClipBatch",
    "ClipDataModule",
    "ClipLayout",
    "Detections",
    "EncodedFrames",
    "Evaluator",
    "FPN",
    "FeatureMaps",
    "FeatureSpec",
    "Head",
    "Letterbox",
    "LongTermAttention",
    "MapFusion",
    "Measures",
    "Memory",
    "PredictedFrame",
    "Resize",
    "STF",
    "Source",
    "State",
    "StreamingDetector",
    "Target",
    "TimmBackbone",
    "TubeletAggregation",
    "TwoStageHead",
    "VideoDetectionTask",
    "VideoDetector",
    "VodetError",
    "Window",
    "WindowBatch",
    "draw",
    "from_pretrained",
    "init_from",
    "load",
    "read_st_coco",
]


def test_names_are_these() -> None:
    assert vodet.__all__ == NAMES
    assert dir(vodet) == sorted(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "State"])
def test_name_is_there_with_a_docstring(name: str) -> None:
    found = getattr(vodet, name)
    assert found.__name__ == name
    assert found.__module__.startswith("vodet.")
    assert found.__doc__


def test_a_state_is_a_mapping_of_tensors() -> None:
    from vodet import encodings

    assert vodet.State is encodings.State


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="No vodet attribute Windwo"):
        vodet.Windwo  # noqa: B018  # what is tested


def test_import_is_light() -> None:
    code = "import sys, vodet; print(*sorted(n for n in sys.modules if '.' not in n))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) & {
        "albumentations", "av", "cv2", "hydra", "lightning", "matplotlib", "numpy", "timm", "torch",
        "torchvision",
    } == set()  # fmt: skip
