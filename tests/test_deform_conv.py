from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from vodet.deform_conv import DeformConv, deform_conv


def inputs(batch: int, height: int, width: int, reach: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, 6, height, width), (batch, 18, height, width), (batch, 9, height, width))
    x, offsets, mask, weight = (
        torch.randn(shape, generator=generator) for shape in (*shapes, (4, 6, 3, 3))
    )
    return [x, offsets * reach, mask.sigmoid(), weight]


@pytest.mark.parametrize(
    ("batch", "height", "width", "reach"),
    [(2, 7, 5, 1.5), (1, 5, 12, 40.0), (2, 1, 1, 0.7), (1, 1, 6, 2.0)],
)
def test_values_and_gradients_are_those_of_torchvision(batch, height, width, reach):
    ours = [tensor.requires_grad_() for tensor in inputs(batch, height, width, reach)]
    theirs = [tensor.requires_grad_() for tensor in inputs(batch, height, width, reach)]

    found = deform_conv(*ours)
    x, offsets, mask, weight = theirs
    expected = deform_conv2d(x, offsets, weight, padding=1, mask=mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (found * pull).sum().backward()
    (expected * pull).sum().backward()
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad, rtol=1e-4, atol=1e-4)


def test_without_offsets_and_with_equal_strength_it_is_a_plain_convolution():
    x, offsets, mask, weight = inputs(2, 7, 5, 0.0)
    plain = torch.nn.functional.conv2d(x, weight, padding=1)
    found = deform_conv(x, offsets, torch.ones_like(mask), weight)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)


def test_channels_last_input_gives_the_same():
    x, *rest = inputs(2, 6, 5, 1.0)
    torch.testing.assert_close(
        deform_conv(x.to(memory_format=torch.channels_last), *rest), deform_conv(x, *rest)
    )


def test_starts_as_a_plain_convolution_of_half_strength():
    layer = DeformConv(6, 4)
    x = torch.randn(1, 6, 8, 9)
    plain = torch.nn.functional.conv2d(x, layer.weight, padding=1)
    torch.testing.assert_close(layer(x), plain / 2, rtol=1e-4, atol=1e-5)


def test_offsets_come_before_the_mask():
    layer = DeformConv(3, 2)
    with torch.no_grad():
        layer.conv_offset.bias[:18] = torch.tensor([1.0, -2.0]).repeat(9)  # (y, x) of each tap
        layer.conv_offset.bias[18:] = 100.0  # mask 1
    x = torch.randn(1, 3, 9, 9)
    plain = torch.nn.functional.conv2d(x, layer.weight, padding=1)
    torch.testing.assert_close(
        layer(x)[:, :, 1:7, 3:8], plain[:, :, 2:8, 1:6], rtol=1e-4, atol=1e-5
    )


def test_autocast_samples_in_float32():
    x, offsets, mask, weight = inputs(1, 40, 60, 2.0)
    expected = deform_conv(x, offsets, mask, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = deform_conv(x, offsets, mask, weight)
    assert found.dtype == torch.float32
    # Only the products are rounded: places rounded to bfloat16 would be wrong by a quarter cell.
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()
