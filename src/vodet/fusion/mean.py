"""Mean over the window: the trivial temporal fusion, which every other one must beat."""

from __future__ import annotations

from torch import nn

from vodet.encodings import FeatureMaps, FeatureSpec


class MeanFusion(nn.Module):
    """Averages the maps of all frames of the window, with equal weights.

    Args:
        spec: Levels of the maps; any levels.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()

    def forward(self, window: FeatureMaps, reference: int) -> FeatureMaps:
        """Average maps ``[B, T, C, h, w]`` to ``[B, C, h, w]``."""
        return window.map(lambda level: level.mean(dim=1))
