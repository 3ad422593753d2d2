"""Measures the size and the speed of exported detectors beside the detector itself.

    python scripts/benchmarks/export.py --size 320 576

Each row is a detector with random weights. The columns are the sizes of its ONNX programs and
memory, and the frames per second of the stream in PyTorch and in ONNX Runtime, on the CPU, with the
same number of threads. Times are medians over the frames after the first ten.
"""

from __future__ import annotations

import argparse
import runpy
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import hydra
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from vodet import StreamingDetector, VideoDetector
from vodet.cli.app import config_dir
from vodet.export.folder import export_detector

ROOT = Path(__file__).parents[2]
WARM_UP = 10


def rate(results: Iterable[Any]) -> float:
    """Return the frames per second of a stream, given its results in order."""
    times = [time.perf_counter()]
    times += [time.perf_counter() for _ in results]
    steps = np.diff(times)[WARM_UP:]
    return 1 / median(steps.tolist())


def eager(detector: VideoDetector, frames: list[np.ndarray]) -> Iterator[Any]:
    """Yield the results of the detector itself."""
    stream = StreamingDetector(detector)
    for frame in frames:
        yield from stream.push(frame)
    yield from stream.flush()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=[320, 576], help="height and width")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--detectors", nargs="+", default=["centernet", "one-stage", "two-stage"])
    parser.add_argument("--frames", type=int, default=60)
    options = parser.parse_args()
    benchmark = runpy.run_path(str(Path(__file__).with_name("stream.py")))
    example = runpy.run_path(str(ROOT / "examples" / "onnx_stream.py"))
    options.window, options.pyramid, options.proposals = "previous", "projection", 300
    options.device = "cpu"
    generator = np.random.default_rng(0)
    frames = list(generator.integers(0, 256, (options.frames, *options.size, 3), np.uint8))
    table = Table(
        "detector", "encode MB", "step MB", "begin MB", "PyTorch fps", "ONNX fps", "ratio"
    )
    for name in options.detectors:
        options.detector = name
        for row, overrides in benchmark["TABLES"][name].items():
            with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
                detector = benchmark["build"](overrides, options)
            with TemporaryDirectory() as temporary:
                folder = Path(temporary, "exported")
                export_detector(detector, folder, "onnx", tuple(options.size))
                files = ("encode.onnx", "step.onnx", "begin.npz")
                sizes = [f"{(folder / file).stat().st_size / 1e6:.1f}" for file in files]
                ours, theirs = (
                    rate(eager(detector, frames)),
                    rate(example["stream"](folder, frames)),
                )
            table.add_row(row, *sizes, f"{ours:.1f}", f"{theirs:.1f}", f"{theirs / ours:.2f}")
    Console(width=120).print(
        f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}", table
    )


if __name__ == "__main__":
    main()
