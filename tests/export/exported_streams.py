"""Exports detectors and writes what their streams find; `test_onnx.py` compares.

    python exported_streams.py FOLDER

It runs as a process of its own: the wrappers that check shapes in tests cannot be in a graph.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from inference.made_videos import encode
from tiny import candidate_fusions_of, fusion_of, tiny_detector, tiny_one_stage, tiny_two_stage
from tiny_detr import config_of, tiny_detr
from vodet.data.frames.resize import Letterbox, Resize, Stretch
from vodet.detector import VideoDetector
from vodet.export.folder import export_detector
from vodet.inference.postprocess import to_original
from vodet.inference.sources import open_source
from vodet.stages import FrameResize
from vodet.streaming import StreamingDetector
from vodet.structures import FrameDetections, Window, without_padding

SIZE = (48, 80)
FRAMES = 16  # the memories of the tiny detectors reach back at most 3 key frames, 2 frames apart

DETECTORS: dict[str, Callable[[], VideoDetector]] = {
    "centernet": lambda: tiny_detector(fusion_of("none"), Window()),
    "stf": lambda: resizing(tiny_detector(fusion_of("stf"), Window(2, 1, 2)), Resize(40, 64)),
    "conv_gru": lambda: resizing(tiny_detector(fusion_of("conv_gru"), Window()), Stretch(64, 64)),
    "yolov": lambda: resizing(tiny_one_stage("yolov", Window(1, 1)), Letterbox(64, 64)),
    "long_term": lambda: tiny_two_stage("long_term", Window()),
    "detr": lambda: resizing(well_conditioned_detr(), Letterbox(64, 64)),
}


def well_conditioned_detr() -> VideoDetector:
    """A detector whose detections do not depend on the rounding errors of random weights.

    All 84 cells are queries, because their scores differ by less than rounding errors. The geometry
    of the attention would amplify the errors of boxes.
    """
    fusions = candidate_fusions_of("long_term", "model.head.fusion.attention.geometry=false")
    return tiny_detr(fusions, Window(), config=config_of("rt_detr_v2", num_queries=84))


def resizing(detector: VideoDetector, resize: FrameResize) -> VideoDetector:
    detector.resize = resize
    return detector


def found_by(detector: VideoDetector, video: Path) -> list[FrameDetections]:
    """What the detector itself finds, as vodet-predict reads and resizes the frames."""
    stream = StreamingDetector(detector)
    found = [result for frame in open_source(video) for result in stream.push(frame.pixels)]
    return found + stream.flush()


def write_expected(detector: VideoDetector, video: Path, path: Path) -> None:
    lines = []
    for result in found_by(detector, video):
        boxes, scores, labels = (result.detections[k] for k in ("boxes", "scores", "labels"))
        columns = {"boxes": boxes, "scores": scores, "labels": labels}
        lines.append({name: values.tolist() for name, values in columns.items()})
    path.write_text(json.dumps(lines))


def check_torch_export(detector: VideoDetector, video: Path, folder: Path) -> None:
    """Runs the programs of a detector whose window is one frame, and compares."""
    about = json.loads((folder / "vodet.json").read_text())
    encode, step = (
        torch.export.load(folder / about[n]["file"]).module() for n in ("encode", "step")
    )
    memory = {name: torch.tensor(value) for name, value in np.load(folder / "begin.npz").items()}
    assert memory
    for frame, expected in zip(open_source(video), found_by(detector, video), strict=True):
        pixels = torch.from_numpy(detector.resize(frame.pixels)).permute(2, 0, 1)[None]
        size = detector.resize.target_size(SIZE)
        detections, memory = step(encode(pixels, torch.tensor([size])), memory)
        (found,) = without_padding({name: tensor[None] for name, tensor in detections.items()})
        torch.testing.assert_close(to_original(found, size, SIZE), expected.detections)


@torch.no_grad()
def main(folder: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(FRAMES)]
    video = encode(folder / "video.mp4", pictures, "libx264")
    detector = DETECTORS["conv_gru"]()
    export_detector(detector, folder / "torch_export", "torch_export", SIZE)
    check_torch_export(detector, video, folder / "torch_export")
    for name, build in DETECTORS.items():
        detector = build()
        export_detector(detector, folder / name, "onnx", SIZE)
        write_expected(detector, video, folder / f"{name}.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
