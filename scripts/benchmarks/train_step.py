"""Compares training steps of SLTnet's second phase with the first phase frozen and not frozen.

    python scripts/benchmarks/train_step.py --backbone resnet50 --size 320 576 --clips 2

In each round, both steps use the same random clips and history, one after the other. Peak memory
is measured in a separate process for each step. Weights are random.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median

import hydra
import torch
from hydra.utils import instantiate
from rich.console import Console
from rich.table import Table

from vodet import VideoDetector
from vodet.cli.app import config_dir
from vodet.structures import ClipBatch, ClipLayout, FrameInfo, Target

STEPS = {
    "frozen first phase": [],
    "gradient through everything": ["model.frozen=[]"],
}


def build(overrides: list[str], options: argparse.Namespace) -> VideoDetector:
    """Build the detector of experiment=imagenet_vid_sltnet with random weights."""
    torch.manual_seed(0)
    chosen = [
        "experiment=imagenet_vid_sltnet",
        f"model/backbone={options.backbone}",
        "model.backbone.pretrained=false",
        *overrides,
    ]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("train", chosen)
    names = [f"class {number}" for number in range(30)]
    detector: VideoDetector = instantiate(config.model, class_names=names)
    return detector.to(options.device).train()


def batch_of(options: argparse.Namespace) -> ClipBatch:
    """Make clips with objects. Each clip has three windows; the last two are the history.

    Windows have three frames, as after temporal dropout.
    """
    height, width = options.size
    info = FrameInfo("video", 0, 0, (height, width), (height, width))
    corner = torch.rand(5, 2) * torch.tensor([width / 2, height / 2])
    target = Target(
        boxes=torch.cat((corner, corner + torch.tensor([width / 3, height / 3])), dim=1),
        labels=torch.arange(5),
        track_ids=torch.arange(5),
        iscrowd=torch.zeros(5, dtype=torch.bool),
    )
    window, *history = ((start, start + 1, start + 2) for start in (0, 3, 6))
    layout = ClipLayout((window,), reference=1, reference_frame=1, history=tuple(history))
    shape = (options.clips, 9, 3, height, width)
    batch = ClipBatch(
        frames=torch.randint(0, 256, shape, dtype=torch.uint8),
        infos=((info,) * 9,) * options.clips,
        targets=((target,) * 9,) * options.clips,
        layout=layout,
    )
    return batch.to(options.device)


def step(detector: VideoDetector, optimizer: torch.optim.Optimizer, batch: ClipBatch) -> float:
    """Take a training step and return its milliseconds."""
    start = time.perf_counter()
    optimizer.zero_grad()
    torch.stack(list(detector.losses(batch).values())).sum().backward()
    optimizer.step()
    if batch.frames.is_cuda:
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def optimizer_of(detector: VideoDetector) -> torch.optim.Optimizer:
    """Return an optimizer of the parameters that are not frozen."""
    learning = [weight for weight in detector.parameters() if weight.requires_grad]
    return torch.optim.SGD(learning, lr=1e-4, momentum=0.9)


def peak_memory(name: str) -> float:
    """Return the peak memory of two steps in MB, measured in a separate process."""
    command = [sys.executable, __file__, *sys.argv[1:], "--measure-memory", name]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(found.stdout.splitlines()[-1]))


def measure_memory(name: str, options: argparse.Namespace) -> None:
    """Take two steps and print the peak memory of this process, or of the GPU, in MB."""
    detector = build(STEPS[name], options)
    optimizer, batch = optimizer_of(detector), batch_of(options)
    for _ in range(2):
        step(detector, optimizer, batch)
    if batch.frames.is_cuda:
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps(peak))


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet50", help="from conf/model/backbone")
    parser.add_argument("--size", type=int, nargs=2, default=[320, 576], help="height and width")
    parser.add_argument("--clips", type=int, default=2, help="clips per step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measure-memory", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_memory:
        measure_memory(options.measure_memory, options)
        return

    # Measured first, because a process starts with the peak memory of its parent process.
    peaks = {name: peak_memory(name) for name in STEPS}
    detectors = {name: build(overrides, options) for name, overrides in STEPS.items()}
    optimizers = {name: optimizer_of(detector) for name, detector in detectors.items()}
    batch = batch_of(options)
    for name, detector in detectors.items():
        step(detector, optimizers[name], batch)
    rounds = [
        {name: step(detector, optimizers[name], batch) for name, detector in detectors.items()}
        for _ in range(options.rounds)
    ]
    threads = f", {torch.get_num_threads()} threads" if options.device == "cpu" else ""
    table = Table(title=f"torch {torch.__version__}{threads}, {vars(options)}")
    for column in ("step", "ms median", "speed-up", "peak memory, MB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    slowest = list(STEPS)[-1]
    for name in STEPS:
        ratios = [times[slowest] / times[name] for times in rounds]
        table.add_row(
            name,
            f"{median(times[name] for times in rounds):.0f}",
            f"{median(ratios):.2f}",
            f"{peaks[name]:.0f}",
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
