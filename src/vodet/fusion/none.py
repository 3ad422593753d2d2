"""No temporal fusion: the baseline."""

from __future__ import annotations

from torch import nn

from vodet.encodings import FeatureMaps, FeatureSpec


class NoFusion(nn.Module):
    """Takes the maps of the reference frame and looks at no other.

    Args:
        spec: Levels of the maps; any will do.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()

    def forward(self, window: FeatureMaps, reference: int) -> FeatureMaps:
        """Turn maps ``[B, T, C, h, w]`` into those of frame ``reference``, ``[B, C, h, w]``."""
        return window[:, reference]
