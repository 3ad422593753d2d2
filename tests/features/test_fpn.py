from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.features.pyramid import FPN

SPEC = FeatureSpec((6, 8, 10), (4, 8, 16))
GRIDS = {"doubling": ((16, 12), (8, 6), (4, 3)), "odd": ((15, 11), (8, 6), (4, 3))}


def maps(grids=GRIDS["doubling"]) -> FeatureMaps:
    generator = torch.Generator().manual_seed(0)
    levels = zip(SPEC.channels, grids, strict=True)
    return FeatureMaps(tuple(torch.randn(2, c, *grid, generator=generator) for c, grid in levels))


def enlarged(coarse: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Each cell takes the value of the coarse cell that it lies in."""
    fine = coarse.new_zeros(*coarse.shape[:2], height, width)
    for y in range(height):
        for x in range(width):
            row, column = y * coarse.shape[2] // height, x * coarse.shape[3] // width
            fine[:, :, y, x] = coarse[:, :, row, column]
    return fine


def conv3x3(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1))
    total = bias.view(1, -1, 1, 1)
    for dy in range(3):
        for dx in range(3):
            part = padded[:, :, dy : dy + height, dx : dx + width]
            total = total + torch.einsum("dc,nchw->ndhw", weight[:, :, dy, dx], part)
    return total


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS.keys())
def test_each_level_adds_the_enlarged_coarser_one_and_is_smoothed(grids):
    pyramid, inputs = FPN(SPEC, 5), maps(grids)
    for bias in (p for name, p in pyramid.named_parameters() if name.endswith("bias")):
        torch.nn.init.normal_(bias)
    net, total = pyramid.net, None
    *found, _ = pyramid(inputs).levels
    for level in (2, 1, 0):
        inner, smooth = net.inner_blocks[level][0], net.layer_blocks[level][0]
        x = inputs.levels[level]
        lateral = torch.einsum("dc,nchw->ndhw", inner.weight[:, :, 0, 0], x)
        lateral = lateral + inner.bias.view(1, -1, 1, 1)
        total = lateral if total is None else lateral + enlarged(total, *x.shape[2:])
        expected = conv3x3(total, smooth.weight, smooth.bias)
        torch.testing.assert_close(found[level], expected)


def test_one_level_of_twice_the_stride_is_added_of_every_second_cell():
    pyramid = FPN(SPEC, 5)
    assert pyramid.spec == FeatureSpec((5, 5, 5, 5), (4, 8, 16, 32))
    *_, coarsest, extra = pyramid(maps()).levels
    assert torch.equal(extra, coarsest[:, :, ::2, ::2])
    assert extra.shape == (2, 5, 2, 2)


def test_levels_keep_their_grids():
    shapes = [level.shape for level in FPN(SPEC, 5)(maps(GRIDS["odd"])).levels]
    assert shapes == [(2, 5, 15, 11), (2, 5, 8, 6), (2, 5, 4, 3), (2, 5, 2, 2)]


def test_every_parameter_and_level_gets_a_gradient():
    inputs = FeatureMaps(tuple(level.requires_grad_() for level in maps().levels))
    pyramid = FPN(SPEC, 5)
    sum((level * torch.randn_like(level)).sum() for level in pyramid(inputs).levels).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in pyramid.parameters())
    assert all(level.grad.abs().sum() > 0 for level in inputs.levels)


def test_the_coarsest_level_alone_reaches_every_level():
    pyramid, before = FPN(SPEC, 5), maps()
    after = FeatureMaps((*before.levels[:2], before.levels[2] + 1))
    pairs = zip(pyramid(before).levels, pyramid(after).levels, strict=True)
    assert all((old - new).abs().mean() > 1e-3 for old, new in pairs)
    after = FeatureMaps((before.levels[0] + 1, *before.levels[1:]))
    same = [
        torch.equal(old, new)
        for old, new in zip(pyramid(before).levels, pyramid(after).levels, strict=True)
    ]
    assert same == [False, True, True, True]


def test_batch_norm_is_that_of_torchvision():
    pyramid = FPN(SPEC, 5, norm=True).eval()
    theirs = FeaturePyramidNetwork(
        list(SPEC.channels), 5, LastLevelMaxPool(), norm_layer=torch.nn.BatchNorm2d
    ).eval()
    for name, value in theirs.named_buffers():
        if name.endswith(("mean", "var")):
            value.uniform_(0.5, 2)
    pyramid.net.load_state_dict(theirs.state_dict())
    expected = theirs({str(n): level for n, level in enumerate(maps().levels)})
    torch.testing.assert_close(list(pyramid(maps()).levels), list(expected.values()))
    assert not any("1.running" in name for name in FPN(SPEC, 5).state_dict())
