"""Compiles and exports `VideoDetector.step` for every fusion, and compares; prints each one.

Candidate fusions are those of heads whose candidates depend on a single frame. Each runs in a
one-stage head, and one of them in a DETR head.

It runs as a process of its own: the wrappers that check shapes in tests cannot be in a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from tiny import (
    fusion_names,
    fusion_of,
    random_frames,
    tiny_detector,
    tiny_one_stage,
    unlinked_fusion_names,
)
from tiny_detr import tiny_detr
from vodet.detector import VideoDetector
from vodet.encodings import Memory, WindowBatch
from vodet.structures import Window


class Step(nn.Module):
    def __init__(self, detector: VideoDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, windows: WindowBatch, memory: Memory) -> tuple[dict[str, Tensor], Memory]:
        return self.detector.step(windows, memory)


def detectors() -> dict[str, Callable[[Window], VideoDetector]]:
    """Builds a detector with each fusion, by its name."""
    maps = {name: partial(tiny_detector, fusion_of(name)) for name in fusion_names()}
    cells = {f"one-stage {n}": partial(tiny_one_stage, n) for n in unlinked_fusion_names()}
    return maps | cells | {"detr long_term": partial(tiny_detr, "long_term")}


@torch.no_grad()
def main() -> None:
    for name, build in detectors().items():
        detector = build(Window(past=1))
        frames = detector.encode(random_frames(6))
        memory = detector.begin(2, frames)
        index = torch.tensor([[[0, 1], [3, 4]], [[1, 2], [4, 5]]])  # two videos, two steps
        windows = [WindowBatch.of(frames, rows, 1) for rows in index]
        torch._dynamo.reset()
        steps = {
            "compiled": torch.compile(Step(detector), backend="eager", fullgraph=True),
            "exported": torch.export.export(Step(detector), (windows[0], memory)).module(),
        }
        for how, step in steps.items():
            own = expected_memory = memory
            for batch in windows:
                found, own = step(batch, own)
                expected, expected_memory = detector.step(batch, expected_memory)
                torch.testing.assert_close(found, expected)
                torch.testing.assert_close(own.states, expected_memory.states)
            print(name, how)


if __name__ == "__main__":
    main()
