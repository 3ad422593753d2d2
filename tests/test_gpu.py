"""What only a GPU shows: mixed precision, compilation, and that nothing waits inside a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from heads.test_two_stage import OBJECTS, batch_of
from tiny import (
    candidate_fusion_names,
    candidate_fusions_of,
    fusion_names,
    fusion_of,
    random_frames,
    tiny_detector,
    tiny_two_stage,
)
from vodet.detector import VideoDetector
from vodet.encodings import WindowBatch
from vodet.streaming import StreamingDetector
from vodet.structures import Window

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
WINDOW = Window(past=2)
DETECTORS = [
    *(f"centernet {name}" for name in fusion_names()),
    *(f"two-stage {name}" for name in candidate_fusion_names()),
]
# Suppression waits, and torchvision's RAFT copies its grid to the GPU in each iteration.
NO_WAITING = [f"centernet {name}" for name in fusion_names() if name != "fgfa"]


def build(name: str) -> VideoDetector:
    head, fusion = name.split()
    if head == "centernet":
        return tiny_detector(fusion_of(fusion), WINDOW).cuda()
    options = {"refine": "boxes"} if fusion == "selsa" else {}
    return tiny_two_stage(candidate_fusions_of(fusion), WINDOW, **options).cuda()


@contextmanager
def nothing_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_a_training_step_is_finite_and_reaches_every_weight(name: str, precision) -> None:
    detector = build(name).train()
    batch = batch_of([[OBJECTS] * 3] * 2, 3, history=2).to("cuda")
    with torch.autocast("cuda", precision, enabled=precision != torch.float32):
        losses = detector.losses(batch)
    torch.stack(list(losses.values())).sum().backward()
    for parameter, weight in detector.named_parameters():
        assert weight.grad is not None, parameter
        assert weight.grad.isfinite().all(), parameter


@pytest.mark.parametrize("name", DETECTORS)
def test_a_stream_finds_what_the_cpu_finds(name: str) -> None:
    frames = random_frames(5)
    found = StreamingDetector(build(name)).push(frames)
    expected = StreamingDetector(build(name).cpu()).push(frames)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.detections["boxes"].is_cuda
        best = theirs.detections["scores"][:5]
        torch.testing.assert_close(ours.detections["scores"][:5].cpu(), best, rtol=1e-2, atol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("name", NO_WAITING)
def test_nothing_waits_for_the_gpu_in_encode_and_step(name: str) -> None:
    detector, frames = build(name), random_frames(3).cuda()
    sizes = torch.tensor([[64, 64]] * 3, device="cuda")
    index = torch.tensor([[0, 1, 2]], device="cuda")
    encoded = detector.encode(frames, sizes)
    memory = detector.begin(1, encoded)
    detector.step(WindowBatch.of(encoded, index, 2), memory)  # kernels are loaded by now
    with nothing_waits():
        encoded = detector.encode(frames, sizes)
        detector.step(WindowBatch.of(encoded, index, 2), memory)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["centernet stf", "centernet conv_gru"])
def test_a_compiled_step_gives_the_same(name: str) -> None:
    detector = build(name)
    encoded = detector.encode(random_frames(3).cuda())
    windows = WindowBatch.of(encoded, torch.tensor([[0, 1, 2]], device="cuda"), 2)
    memory = detector.begin(1, encoded)
    expected, _ = detector.step(windows, memory)
    found, _ = torch.compile(detector.step)(windows, memory)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
