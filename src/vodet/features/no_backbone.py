"""The backbone of detectors whose head detects on the frames themselves."""

from __future__ import annotations

from typing import Any

from jaxtyping import UInt8
from torch import Tensor, nn

from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.errors import ConfigError


class NoBackbone(nn.Module):
    """Computes nothing, for heads that are whole detectors and use no feature maps.

    A detector has at least one level, so there is one with a single channel of zeros.

    Args:
        size_divisor: Frames are padded with black at the right and bottom to multiples of this
            number; 1 leaves their size to the head.
    """

    def __init__(self, size_divisor: int = 1) -> None:
        super().__init__()
        self.spec = FeatureSpec(channels=(1,), strides=(32,))
        self.size_divisor = size_divisor

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Refuse.

        Raises:
            ConfigError: Always, as there is nothing to compile.
        """
        msg = (
            "compile_encoder=true compiles the backbone, and model/backbone=none has nothing to "
            "compile: leave it out."
        )
        raise ConfigError(msg)

    def forward(self, frames: UInt8[Tensor, "N 3 H W"]) -> FeatureMaps:
        """Return a map of zeros for each frame."""
        count, _, height, width = frames.shape
        zeros = frames.new_zeros((count, 1, -(-height // 32), -(-width // 32)))
        return FeatureMaps((zeros.float(),))
