"""Reference values computed by the methods' own programs, and weights too large to keep there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

REFERENCE = Path(__file__).parent / "reference"


def recipe_weight(shape: Sequence[int], seed: int, scale: float) -> Tensor:
    """Hash the position of each weight, as long_term_weights_recipe.json says."""
    h = np.arange(math.prod(shape), dtype=np.uint32) + np.uint32(seed * 0x9E3779B9 & 0xFFFFFFFF)
    h ^= h >> 16
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> 13
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> 16
    values = ((h >> 8).astype(np.float32) * np.float32(2**-23) - 1) * np.float32(scale)
    return torch.as_tensor(values.reshape(shape))
