from __future__ import annotations

import torch

from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.fusion.mean import MeanFusion


def test_averages_all_frames_of_the_window():
    frames = torch.arange(1.0, 4.0).view(1, 3, 1, 1, 1)  # constant frames 1, 2, 3
    window = FeatureMaps((frames.expand(2, 3, 4, 8, 6), -frames.expand(2, 3, 5, 4, 3)))
    for reference in range(3):
        fused = MeanFusion(FeatureSpec((4, 5), (4, 8)))(window, reference)
        assert torch.equal(fused.levels[0], torch.full((2, 4, 8, 6), 2.0))
        assert torch.equal(fused.levels[1], torch.full((2, 5, 4, 3), -2.0))


def test_one_frame_is_its_own_mean():
    window = FeatureMaps((torch.randn(2, 1, 4, 8, 6),))
    fused = MeanFusion(FeatureSpec((4,), (4,)))(window, 0)
    assert torch.equal(fused.levels[0], window.levels[0][:, 0])
