from __future__ import annotations

import torch

from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.fusion.none import NoFusion


def test_takes_the_reference_frame_alone():
    window = FeatureMaps((torch.randn(2, 3, 4, 8, 6), torch.randn(2, 3, 5, 4, 3)))
    fused = NoFusion(FeatureSpec((4, 5), (4, 8)))(window, 1)
    for level, expected in zip(fused.levels, window.levels, strict=True):
        assert torch.equal(level, expected[:, 1])
