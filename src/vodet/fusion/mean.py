"""Mean over the window: the simplest temporal fusion, which all others must beat."""

from __future__ import annotations

from torch import nn

from vodet.encodings import FeatureMaps, FeatureSpec


class MeanFusion(nn.Module):
    """Averages the maps of all frames of the window, with equal weights.

    Args:
        spec: Levels of the maps (not used).
    """

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()

    def forward(self, window: FeatureMaps, reference: int) -> FeatureMaps:
        """Return the mean ``[B, C, h, w]`` of maps ``[B, T, C, h, w]``, for each level."""
        return window.map(lambda level: level.mean(dim=1))
