"""A stand-in for the backbone, for heads that detect on the pixels of the frames."""

from __future__ import annotations

from typing import Any

from jaxtyping import UInt8
from torch import Tensor, nn

from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.errors import ConfigError


class NoBackbone(nn.Module):
    """Returns zeros instead of feature maps, for heads that are complete detectors.

    There is one level with one channel, because a detector needs at least one level.

    Args:
        size_divisor: Frames are padded with black at the right and bottom until their sides are
            multiples of this number; with 1, they are not padded.
    """

    def __init__(self, size_divisor: int = 1) -> None:
        super().__init__()
        self.spec = FeatureSpec(channels=(1,), strides=(32,))
        self.size_divisor = size_divisor

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Raise an error, because there is nothing to compile.

        Raises:
            ConfigError: Always.
        """
        msg = (
            "compile_encoder=true compiles the backbone, but model/backbone=none has nothing to "
            "compile: set compile_encoder=false."
        )
        raise ConfigError(msg)

    def forward(self, frames: UInt8[Tensor, "N 3 H W"]) -> FeatureMaps:
        """Return a map of zeros for each frame."""
        count, _, height, width = frames.shape
        zeros = frames.new_zeros((count, 1, -(-height // 32), -(-width // 32)))
        return FeatureMaps((zeros.float(),))
