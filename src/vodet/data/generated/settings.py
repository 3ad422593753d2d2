"""What the settings of all generated sets share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vodet.data.generated.scenes import ObjectBox
from vodet.errors import ConfigError

Range = tuple[int, int] | tuple[float, float]

SPLITS = ("train", "val")
COUNT = (1, 100_000)  # of videos
LENGTH = (1, 1_000_000)  # of a video, in frames
SIZE = (64, 4096)
QUALITY = (1, 100)
SEED = (0, 2**63)


@dataclass(frozen=True)
class Frame:
    """A rendered frame.

    Args:
        picture: ``[H, W, 3]`` uint8 RGB.
        boxes: The annotations.
        fields: Further fields of its image in the ST-COCO file.
    """

    picture: np.ndarray
    boxes: list[ObjectBox]
    fields: Mapping[str, Any]


def check_ranges(settings: object, ranges: Mapping[str, Range]) -> None:
    """Check that each named number is in its range, both ends included.

    Raises:
        ConfigError: If a number is out of range.
    """
    faults = [
        f"{name} must be from {low:g} to {high:g}, found {getattr(settings, name)}"
        for name, (low, high) in ranges.items()
        if not low <= getattr(settings, name) <= high
    ]
    if faults:
        msg = f"A generated set cannot have these settings: {'; '.join(faults)}."
        raise ConfigError(msg)


def generators(
    seed: int, split: str, video: int
) -> tuple[np.random.Generator, np.random.Generator]:
    """Return two independent random generators for a video."""
    seeds = np.random.SeedSequence([seed, SPLITS.index(split), video]).spawn(2)
    return np.random.default_rng(seeds[0]), np.random.default_rng(seeds[1])
