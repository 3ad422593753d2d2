"""Compares vodet's deformable convolution with torchvision's: values and time.

    python scripts/benchmarks/deform_conv.py

The shapes are the levels of STF on HRNet-W32 with 320 x 576 pixels, and 96 to 48 channels with
40 x 40 cells. Times are the minima of several runs of forward and forward + backward, in ms.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.ops import deform_conv2d

from vodet.deform_conv import deform_conv

SHAPES = (  # batch, channels in, channels out, height, width
    (1, 64, 32, 80, 144),
    (1, 128, 64, 40, 72),
    (1, 256, 128, 20, 36),
    (1, 512, 256, 10, 18),
    (1, 96, 48, 40, 40),
    (8, 96, 48, 40, 40),
)
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def torchvision_kernel(x: Tensor, offsets: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Call torchvision's deformable convolution with the arguments of vodet's."""
    output: Tensor = deform_conv2d(x, offsets, weight, padding=1, mask=mask)
    return output


def make_inputs(shape: tuple[int, int, int, int, int], device: torch.device) -> list[Tensor]:
    """Return random maps, offsets of a few cells, a mask and weights."""
    batch, channels, out_channels, height, width = shape
    generator = torch.Generator().manual_seed(0)
    x, offsets, mask, weight = (
        torch.randn(size, generator=generator).to(device)
        for size in (
            (batch, channels, height, width),
            (batch, 18, height, width),
            (batch, 9, height, width),
            (out_channels, channels, 3, 3),
        )
    )
    values = (x, 2 * offsets, mask.sigmoid(), weight / (9 * channels) ** 0.5)
    return [value.requires_grad_() for value in values]


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_times(kernel: Kernel, inputs: list[Tensor], seconds: float) -> tuple[float, float]:
    """Return the minimum milliseconds of forward and of forward + backward in 3 or more runs."""
    device = inputs[0].device
    forward: list[float] = []
    both: list[float] = []
    end = time.perf_counter() + seconds
    while len(both) < 3 or time.perf_counter() < end:
        wait_for(device)
        start = time.perf_counter()
        output = kernel(*inputs)
        wait_for(device)
        forward.append(time.perf_counter() - start)
        torch.autograd.grad(output, inputs, torch.ones_like(output))
        wait_for(device)
        both.append(time.perf_counter() - start)
    return 1000 * min(forward), 1000 * min(both)


def main() -> None:
    """Measure all shapes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2, help="time for each measurement")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    table = Table(title=f"Deformable convolution, torch {torch.__version__}, {device}{threads}")
    columns = ("batch", "channels", "grid", "forward", "+ backward", "torchvision forward")
    for column in (*columns, "+ backward", "ratio of both", "largest difference"):
        table.add_column(column, justify="right")
    for shape in SHAPES:
        inputs = make_inputs(shape, device)
        ours = best_times(deform_conv, inputs, arguments.seconds)
        theirs = best_times(torchvision_kernel, inputs, arguments.seconds)
        difference = (deform_conv(*inputs) - torchvision_kernel(*inputs)).abs().max().item()
        batch, channels, out_channels, height, width = shape
        table.add_row(
            str(batch),
            f"{channels} -> {out_channels}",
            f"{height} x {width}",
            *(f"{value:.1f}" for value in (*ours, *theirs)),
            f"{theirs[1] / ours[1]:.1f}",
            f"{difference:.0e}",
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
