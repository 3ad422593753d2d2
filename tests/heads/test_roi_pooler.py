from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from recipe import REFERENCE
from vodet.encodings import FeatureMaps
from vodet.errors import ConfigError
from vodet.heads.roi_pooler import RoIPooler, SampledRoIAlign

STRIDES = (4, 8, 16, 32, 64)


def squares(*sides) -> torch.Tensor:
    return torch.tensor([[10.0, 20, 10 + side, 20 + side] for side in sides])


def numbered_maps(frames: int = 1) -> FeatureMaps:
    """Maps of one value each: their stride plus a thousand times their frame."""
    number = 1000.0 * torch.arange(frames).view(-1, 1, 1, 1)
    return FeatureMaps(
        tuple((number + s).expand(-1, 2, 2048 // s, 2048 // s).clone() for s in STRIDES)
    )


def test_levels_and_features_agree_with_the_reference():
    with np.load(REFERENCE / "roi_pooler.npz") as file:
        values = {name: torch.as_tensor(file[name]) for name in file.files}
    pooler = RoIPooler((8, 16, 32), 3)
    maps = FeatureMaps(tuple(values[f"map_stride{s}"][None] for s in (8, 16, 32)))
    boxes = values["boxes"]
    assert torch.equal(pooler.level_of(boxes), values["level_assignment"])
    found = pooler(maps, boxes, torch.zeros(len(boxes), dtype=torch.int64))
    torch.testing.assert_close(found, values["out_aligned_sampling0"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strides", [(4, 16), (8, 16, 24), (4, 8, 32), (64, 128)])
def test_strides_that_do_not_double_are_refused(strides):
    expected = "up to 32 whose strides double .*found " + re.escape(str(list(strides)))
    with pytest.raises(ConfigError, match=expected):
        RoIPooler(strides, 7)
    RoIPooler((4, 8, 16, 32, 100), 7)  # levels that are not pooled from do not matter
    RoIPooler((16,), 7)


def test_a_level_is_of_boxes_of_half_to_the_whole_of_its_size():
    boxes = squares(0, 1, 111.9, 112, 223.9, 224, 447.9, 448, 1e4)
    assert RoIPooler(STRIDES, 7).level_of(boxes).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_the_area_decides_not_the_longer_side():
    boxes = torch.tensor([[0.0, 0, 448, 112], [0.0, 0, 28, 1792]])
    assert RoIPooler(STRIDES, 7).level_of(boxes).tolist() == [2, 2]


def test_levels_coarser_than_asked_for_are_not_pooled_from():
    boxes = squares(60, 5000)
    assert RoIPooler(STRIDES, 7, coarsest=8).level_of(boxes).tolist() == [0, 1]
    assert RoIPooler((8, 16), 7).level_of(boxes).tolist() == [0, 1]


def test_features_come_in_the_order_of_the_boxes_from_their_frames():
    boxes, frames = squares(500, 30, 250, 600, 130, 20), torch.tensor([0, 2, 1, 2, 0, 1])
    found = RoIPooler(STRIDES, 3)(numbered_maps(3), boxes, frames)
    expected = torch.tensor([32.0, 2004, 1016, 2032, 8, 1004])
    torch.testing.assert_close(found, expected.view(-1, 1, 1, 1).expand(-1, 2, 3, 3))


def test_no_rois_are_no_features():
    maps = numbered_maps().map(torch.Tensor.bfloat16)
    found = RoIPooler(STRIDES, 3)(maps, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert found.shape == (0, 2, 3, 3)
    assert found.dtype == torch.float32


def test_features_of_half_precision_maps_are_float32():
    maps = numbered_maps().map(torch.Tensor.bfloat16)
    found = RoIPooler(STRIDES, 3)(maps, squares(30), torch.tensor([0]))
    torch.testing.assert_close(found, torch.full((1, 2, 3, 3), 4.0))


def test_the_gradient_goes_to_the_level_pooled_from():
    maps = numbered_maps().map(lambda level: level.requires_grad_())
    found = RoIPooler(STRIDES, 3)(maps, squares(30, 250), torch.tensor([0, 0]))
    found.sum().backward()
    gradients = [0.0 if m.grad is None else m.grad.sum().item() for m in maps.levels]
    np.testing.assert_allclose(gradients, [18, 0, 18, 0, 0], rtol=1e-5)


def test_boxes_of_frames_are_pooled_each_from_its_own():
    boxes = squares(500, 30, 250, 600, 130, 20).view(2, 3, 4)
    found = RoIPooler(STRIDES, 3).of_frames(numbered_maps(3), boxes, torch.tensor([2, 0]))
    expected = torch.tensor([[2032.0, 2004, 2016], [32, 8, 4]])
    torch.testing.assert_close(found, expected.view(2, 3, 1, 1, 1).expand(-1, -1, 2, 3, 3))


def test_of_levels_with_one_stride_the_first_is_pooled_from():
    strides = (8, 16, 16, 32, 32, 64)
    maps = FeatureMaps(
        tuple(torch.full((1, 2, 2048 // s, 2048 // s), n + 1.0) for n, s in enumerate(strides))
    )
    boxes = squares(30, 250, 500, 1500)
    found = RoIPooler(strides, 3)(maps, boxes, torch.zeros(4, dtype=torch.int64))
    expected = torch.tensor([1.0, 2, 4, 4])
    torch.testing.assert_close(found, expected.view(-1, 1, 1, 1).expand(-1, 2, 3, 3))


def test_sampled_roi_align_is_that_of_torchvision():
    generator = torch.Generator().manual_seed(0)
    maps = FeatureMaps(
        tuple(torch.randn(2, 3, 256 // s, 256 // s, generator=generator) for s in STRIDES)
    )
    boxes, frames = squares(30, 250, 130, 0.5, 112), torch.tensor([0, 1, 1, 0, 1])
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
    named = {str(level): value for level, value in enumerate(maps.levels)}
    order = frames.argsort(stable=True)
    split = [boxes[frames == frame] for frame in (0, 1)]
    expected = theirs(named, split, [(256, 256)] * 2)
    found = RoIPooler(STRIDES, 7, align=SampledRoIAlign())(maps, boxes, frames)
    torch.testing.assert_close(found[order], expected)
    other = RoIPooler(STRIDES, 7, align=SampledRoIAlign(samples=1))(maps, boxes, frames)
    assert not torch.allclose(other, found, atol=1e-2)
