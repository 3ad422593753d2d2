"""Checks the numerical precision of training and evaluation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import lightning as L
import torch
from torch import Tensor

from vodet.errors import ConfigError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

_log = logging.getLogger(__name__)
_SLOW = 2.5  # ratio to the time in float32; CPUs with bfloat16 instructions have about 1 or less


def check_precision(precision: object) -> None:
    """Check that a precision computes boxes in float32.

    Args:
        precision: Lightning's name of the precision, such as ``bf16-mixed`` or ``32``.

    Raises:
        ConfigError: If the precision is neither in `PRECISIONS` nor a short form of a name in it.
    """
    if str(precision) not in (*PRECISIONS, "32", "16", "bf16"):
        msg = (
            f"trainer.precision must be one of {', '.join(PRECISIONS)}; found {str(precision)!r}. "
            "Box coordinates and box losses need float32: mixed precision computes them in "
            "float32, half precision does not."
        )
        raise ConfigError(msg)


def convolution_seconds(dtype: torch.dtype) -> float:
    """Run a small convolution on the CPU five times, and return the shortest time in seconds."""
    frames = torch.zeros(1, 64, 32, 32, dtype=dtype)
    weight = torch.zeros(64, 64, 3, 3, dtype=dtype)
    with torch.no_grad():
        return min(_seconds(frames, weight) for _ in range(5))


def _seconds(frames: Tensor, weight: Tensor) -> float:
    start = time.perf_counter()
    torch.conv2d(frames, weight, padding=1)
    return time.perf_counter() - start


def warn_of_slow_precision(
    trainer: L.Trainer, seconds: Callable[[torch.dtype], float] = convolution_seconds
) -> None:
    """Warn, before the first batch, if the CPU has to emulate half precision.

    Args:
        trainer: The trainer.
        seconds: Returns how long a convolution takes with a number type.
    """
    if trainer.strategy.root_device.type != "cpu" or not trainer.precision.endswith("-mixed"):
        return
    ratio = seconds(torch.bfloat16) / seconds(torch.float32)
    if ratio > _SLOW and trainer.is_global_zero:
        _log.warning(
            "trainer.precision=%s is slow on this CPU: a convolution takes %.1f times as long as "
            "in float32. Use trainer.precision=32-true.",
            trainer.precision,
            ratio,
        )
