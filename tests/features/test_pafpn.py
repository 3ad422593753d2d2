from __future__ import annotations

import pytest
import torch

from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.errors import ConfigError
from vodet.features.pafpn import PAFPN

SPECS = {
    "three levels": FeatureSpec((6, 8, 10), (8, 16, 32)),
    "four levels": FeatureSpec((4, 6, 8, 10), (4, 8, 16, 32)),
    "two levels, one left out": FeatureSpec((6, 10), (8, 32)),
    "two levels of one stride": FeatureSpec((6, 8, 10), (8, 16, 16)),
    "one level": FeatureSpec((6,), (16,)),
}


def maps(spec: FeatureSpec, size: tuple[int, int] = (96, 160)) -> FeatureMaps:
    generator = torch.Generator().manual_seed(0)
    return FeatureMaps(
        tuple(
            torch.randn(2, channels, size[0] // stride, size[1] // stride, generator=generator)
            for channels, stride in zip(spec.channels, spec.strides, strict=True)
        )
    )


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_levels_keep_their_strides_and_get_one_width(spec: FeatureSpec, depth: int) -> None:
    pyramid, inputs = PAFPN(spec, 12, depth), maps(spec)
    levels = pyramid(inputs).levels
    assert pyramid.spec == FeatureSpec((12,) * len(spec.strides), spec.strides)
    assert [level.shape for level in levels] == [(2, 12, *x.shape[2:]) for x in inputs.levels]
    sum((level * torch.randn_like(level)).sum() for level in levels).backward()
    for name, weight in pyramid.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


@torch.no_grad()
def test_every_level_reaches_every_level() -> None:
    spec = SPECS["three levels"]
    pyramid, before = PAFPN(spec, 12).eval(), maps(spec)
    for weight in pyramid.parameters():
        if weight.ndim == 4:
            torch.nn.init.normal_(weight, std=2 * weight[0].numel() ** -0.5)
    for changed in range(3):
        levels = list(before.levels)
        levels[changed] = levels[changed] + 1
        pairs = zip(pyramid(before).levels, pyramid(FeatureMaps(tuple(levels))).levels, strict=True)
        assert all((old - new).abs().mean() > 1e-4 for old, new in pairs)


@torch.no_grad()
def test_two_levels_by_hand() -> None:
    spec = FeatureSpec((6, 8), (8, 16))
    pyramid, inputs = PAFPN(spec, 4).eval(), maps(spec)
    fine, coarse = (lateral(x) for lateral, x in zip(pyramid.laterals, inputs.levels, strict=True))
    enlarged = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    fine = pyramid.down[0](torch.cat((fine, enlarged), dim=1))
    coarse = pyramid.up[0](torch.cat((pyramid.reduce[0](fine), coarse), dim=1))
    for found, expected in zip(pyramid(inputs).levels, (fine, coarse), strict=True):
        torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_frames_do_not_influence_each_other() -> None:
    spec = SPECS["three levels"]
    pyramid, inputs = PAFPN(spec, 12).eval(), maps(spec)
    together = pyramid(inputs)
    alone = pyramid(inputs[1:])
    for a, b in zip(alone.levels, together.levels, strict=True):
        torch.testing.assert_close(a[0], b[1], rtol=1e-5, atol=1e-5)


def test_strides_that_are_no_multiples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"found \(8, 12\).*model\.backbone\.strides"):
        PAFPN(FeatureSpec((6, 8), (8, 12)))
