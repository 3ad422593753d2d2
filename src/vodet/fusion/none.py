"""No temporal fusion: the baseline."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from vodet.encodings import EncodedFrames, FeatureMaps, FeatureSpec, State, WindowBatch
from vodet.stages import MapFusion


class NoFusion(MapFusion):
    """Keeps the reference frames as they were encoded and looks at no other.

    Args:
        spec: Levels of the maps; any will do.
    """

    changes_maps = False

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()

    def forward(self, windows: WindowBatch, state: State) -> tuple[FeatureMaps, State]:
        """Return the maps of the reference frames."""
        return windows.reference_maps, state

    def fuse(
        self,
        windows: WindowBatch,
        state: State,
        encode: Callable[[FeatureMaps, Tensor], EncodedFrames],
    ) -> tuple[WindowBatch, State]:
        """Return the windows as they are: nothing is copied or encoded again."""
        return windows, state
