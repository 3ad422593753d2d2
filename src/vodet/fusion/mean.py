"""Average of the window: the trivial temporal fusion, which every other must beat."""

from __future__ import annotations

from torch import nn

from vodet.encodings import FeatureMaps, FeatureSpec


class MeanFusion(nn.Module):
    """Averages the maps of all frames of the window, whichever is the reference frame.

    Args:
        spec: Levels of the maps; any will do.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()

    def forward(self, window: FeatureMaps, reference: int) -> FeatureMaps:
        """Turn maps ``[B, T, C, h, w]`` into their mean ``[B, C, h, w]``."""
        return window.map(lambda level: level.mean(dim=1))
