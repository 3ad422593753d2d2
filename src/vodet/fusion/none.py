"""No temporal fusion: the baseline."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from vodet.encodings import EncodedFrames, FeatureMaps, FeatureSpec, State, WindowBatch
from vodet.stages import MapFusion


class NoFusion(MapFusion):
    """Leaves the encoded reference frames unchanged and ignores support frames.

    Args:
        spec: Levels of the maps (not used).
    """

    changes_maps = False

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()

    def forward(self, windows: WindowBatch, state: State) -> tuple[FeatureMaps, State]:
        """Return the maps and the state unchanged."""
        return windows.reference_maps, state

    def fuse(
        self,
        windows: WindowBatch,
        state: State,
        encode: Callable[[FeatureMaps, Tensor], EncodedFrames],
    ) -> tuple[WindowBatch, State]:
        """Return the windows unchanged, without copying or encoding anything again."""
        return windows, state
