from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.errors import ConfigError
from vodet.features.pyramid import Identity, Projection, ReleasedNeck, SumNeck

SPEC = FeatureSpec((6, 8, 10), (4, 8, 16))


def maps() -> FeatureMaps:
    return FeatureMaps(
        (torch.randn(2, 6, 16, 12), torch.randn(2, 8, 8, 6), torch.randn(2, 10, 4, 3))
    )


def test_identity_keeps_the_maps():
    levels = maps()
    pyramid = Identity(SPEC)
    assert pyramid(levels) is levels
    assert pyramid.spec == SPEC


def test_projection_is_a_1x1_convolution_of_each_level():
    levels = maps()
    pyramid = Projection(SPEC, 5)
    assert pyramid.spec == FeatureSpec((5, 5, 5), (4, 8, 16))
    for conv, level, found in zip(
        pyramid.convs, levels.levels, pyramid(levels).levels, strict=True
    ):
        weight = conv.weight[:, :, 0, 0]
        expected = torch.einsum("dc,nchw->ndhw", weight, level) + conv.bias.view(-1, 1, 1)
        torch.testing.assert_close(found, expected)


def test_sum_neck_adds_the_enlarged_levels():
    levels = maps()
    neck = SumNeck(SPEC, 7).eval()
    assert neck.spec == FeatureSpec((7,), (4,))
    enlarged = [
        F.interpolate(level, (16, 12), mode="bilinear") for level in neck.projection(levels).levels
    ]
    (found,) = neck(levels).levels
    torch.testing.assert_close(found, neck.smooth(sum(enlarged)))


@pytest.mark.parametrize("make_neck", [SumNeck, ReleasedNeck])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_neck_makes_one_map_that_depends_on_every_level_and_parameter(make_neck, count):
    spec = FeatureSpec(SPEC.channels[:count], SPEC.strides[:count])
    levels = FeatureMaps(tuple(level.requires_grad_() for level in maps().levels[:count]))
    neck = make_neck(spec, 7)
    (found,) = neck(levels).levels
    assert found.shape == (2, 7, 16, 12)
    (found * torch.randn_like(found)).sum().backward()
    assert all(level.grad.abs().sum() > 0 for level in levels.levels)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in neck.parameters())


def test_released_neck_refuses_strides_that_do_not_double():
    message = r"strides double: expected \(4, 8\), found \(4, 16\)"
    with pytest.raises(ConfigError, match=message):
        ReleasedNeck(FeatureSpec((6, 10), (4, 16)))
