"""The examples of docs/temporal-fusion.md run, in streams and in training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from heads.test_two_stage import OBJECTS, batch_of
from tiny import random_frames, tiny_detector, tiny_two_stage
from vodet.detector import VideoDetector
from vodet.streaming import StreamingDetector
from vodet.structures import Window

TEXT = (Path(__file__).parents[2] / "docs" / "temporal-fusion.md").read_text()


@pytest.fixture(scope="module")
def scope() -> dict[str, Any]:
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL))
    names: dict[str, Any] = {"__name__": "my_methods"}
    exec(compile(code, "docs/temporal-fusion.md", "exec"), names)
    return names


def detector_of(scope: dict[str, Any], name: str) -> VideoDetector:
    if name == "MostAlike":
        return tiny_two_stage({"alike": scope[name]}, Window(past=2))
    return tiny_detector(scope[name], Window(past=2))


@pytest.mark.parametrize("name", ["ExponentialMean", "BrightnessMean", "MostAlike"])
def test_example_streams_and_trains(scope: dict[str, Any], name: str) -> None:
    detector = detector_of(scope, name)
    frames = random_frames(5)
    at_once = StreamingDetector(detector).push(frames)
    stream = StreamingDetector(detector)
    one_by_one = [answer for frame in frames for answer in stream.push(frame)]
    for a, b in zip(at_once, one_by_one, strict=True):
        torch.testing.assert_close(
            a.detections["scores"], b.detections["scores"], rtol=1e-4, atol=1e-5
        )
    losses = detector.train().losses(batch_of([[OBJECTS] * 3] * 2, 3, history=2))
    torch.stack(list(losses.values())).sum().backward()
    for parameter, weight in detector.named_parameters():
        assert weight.grad is not None, parameter
        assert weight.grad.isfinite().all(), parameter


def test_modules_that_are_named_exist() -> None:
    source = Path(__file__).parents[2] / "src"
    named = set(re.findall(r"`(vodet\.[a-z_.]+)`", TEXT))
    assert len(named) >= 4
    for name in named:
        assert (source / f"{name.replace('.', '/')}.py").is_file(), name
