"""Compares vodet's RoIAlign with torchvision's, without and with gradients of the feature maps.

    python scripts/benchmarks/roi_align.py --size 320 576 --rois 300

Each round pools RoIs of many sizes into 7 x 7 bins with both implementations, from a pyramid with
256 channels and strides of 4 to 32. The table shows medians over the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.ops import roi_align as torchvision_roi_align

from vodet.encodings import FeatureMaps
from vodet.heads.roi_pooler import RoIPooler
from vodet.roi_align import roi_align

STRIDES = (4, 8, 16, 32)
Pool = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def ours(maps: Tensor, boxes: Tensor, frames: Tensor, scale: float) -> Tensor:
    """Pool with vodet."""
    return roi_align(maps, boxes, frames, scale, 7)


def theirs(maps: Tensor, boxes: Tensor, frames: Tensor, scale: float) -> Tensor:
    """Pool with torchvision."""
    rois = torch.cat((frames.unsqueeze(1).to(boxes.dtype), boxes), dim=1)
    pooled: Tensor = torchvision_roi_align(maps, rois, 7, scale, 0, True)
    return pooled


def milliseconds(
    pool: Pool, maps: FeatureMaps, boxes: Tensor, frames: Tensor, *, with_gradient: bool
) -> float:
    """Return the milliseconds for pooling every box from its level once."""
    level_of_box = RoIPooler(STRIDES, 7).level_of(boxes)
    start = time.perf_counter()
    with torch.set_grad_enabled(with_gradient):
        for level, stride in enumerate(STRIDES):
            chosen = level_of_box == level
            pooled = pool(maps.levels[level], boxes[chosen], frames[chosen], 1 / stride)
            if with_gradient:
                pooled.sum().backward()
    if boxes.is_cuda:
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=[320, 576], help="height and width")
    parser.add_argument("--rois", type=int, default=300, help="RoIs per frame")
    parser.add_argument(
        "--frames", type=int, nargs="+", default=[1, 7], help="frames pooled at once"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    torch.manual_seed(0)
    height, width = options.size
    table = Table(title=f"torch {torch.__version__}, {vars(options)}")
    for column in ("frames", "", "vodet, ms", "torchvision, ms", "speed-up"):
        table.add_column(column, justify="right" if column else "left")
    for count in options.frames:
        maps = FeatureMaps(
            tuple(
                torch.randn(count, 256, height // stride, width // stride, device=options.device)
                .to(memory_format=torch.channels_last)
                .requires_grad_()
                for stride in STRIDES
            )
        )
        center = torch.rand(count * options.rois, 2) * torch.tensor([width, height])
        sides = (torch.rand(count * options.rois, 2) * 4 + 2).exp()  # 7 to 400 pixels
        limits = torch.tensor([width, height, width, height])
        boxes = torch.cat((center - sides / 2, center + sides / 2), dim=1).clamp(min=0)
        boxes = boxes.minimum(limits).to(options.device)
        frames = torch.arange(count, device=options.device).repeat_interleave(options.rois)
        for kind, with_gradient in (("forward", False), ("forward + backward", True)):
            rounds = [
                [
                    milliseconds(pool, maps, boxes, frames, with_gradient=with_gradient)
                    for pool in (ours, theirs)
                ]
                for _ in range(options.rounds + 1)
            ][1:]
            own, other = zip(*rounds, strict=True)
            ratio = median(b / a for a, b in rounds)
            table.add_row(
                str(count), kind, f"{median(own):.1f}", f"{median(other):.1f}", f"{ratio:.1f}"
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
