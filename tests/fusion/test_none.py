from __future__ import annotations

import pytest
import torch

from vodet.encodings import EncodedFrames, FeatureMaps, FeatureSpec, WindowBatch
from vodet.fusion.none import NoFusion


def windows() -> WindowBatch:
    maps = FeatureMaps((torch.randn(6, 4, 8, 6), torch.randn(6, 5, 4, 3)))
    return WindowBatch.of_clips(EncodedFrames(maps, torch.full((6, 2), 24), {}), 3, 1)


def test_takes_the_reference_frame_alone():
    own = windows()
    fused, state = NoFusion(FeatureSpec((4, 5), (4, 8)))(own, {})
    for level, expected in zip(fused.levels, own.maps.levels, strict=True):
        assert torch.equal(level, expected[:, 1])
    assert state == {}


def test_windows_stay_as_they_are_and_nothing_is_encoded_again():
    own, fusion = windows(), NoFusion(FeatureSpec((4, 5), (4, 8)))
    found, state = fusion.fuse(own, {}, lambda *_: pytest.fail("encoded again"))
    assert found is own
    assert state == {}
    assert not fusion.changes_maps
