"""Modulated deformable convolution (DCNv2), nearly as fast as an ordinary convolution on a CPU.

Source: X. Zhu et al., "Deformable ConvNets v2" (arXiv 1811.11168). It computes the same function as
``torchvision.ops.deform_conv2d``, which uses a single thread on a CPU.
``scripts/benchmarks/deform_conv.py`` compares their speed.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

TAPS = 9  # taps of the 3 x 3 kernel, row by row


def deform_conv(
    x: Float[Tensor, "B C_in H W"],
    offsets: Float[Tensor, "B 18 H W"],
    mask: Float[Tensor, "B 9 H W"],
    weight: Float[Tensor, "C_out C_in 3 3"],
) -> Float[Tensor, "B C_out H W"]:
    """Convolve with a 3 x 3 kernel whose taps have an offset and a modulation at each position.

    ``out(p) = sum_k mask_k(p) * weight_k @ x(p + tap_k + offset_k(p))``, where x is interpolated
    bilinearly and is zero outside the map. Interpolation commutes with the matrix product. So x is
    first multiplied by the weights of each tap, and the products of all taps are then sampled in
    one call. If there are fewer output than input channels, this samples fewer channels. Sampling
    runs in float32 even under autocast. Bilinear interpolation is not differentiable at integer
    coordinates; there, the gradient of an offset is the gradient on one side.

    Args:
        x: Feature maps.
        offsets: Offsets of the taps at each position, in cells of the map. Channels 0 and 1 are
            ``(y, x)`` of the first tap, channels 2 and 3 of the second, and so on, row by row.
        mask: Factor by which the sample of each tap is multiplied at each position.
        weight: The kernel.
    """
    batch, _, height, width = x.shape
    out_channels, in_channels = weight.shape[:2]
    weight_per_tap = weight.permute(2, 3, 0, 1).reshape(TAPS * out_channels, in_channels, 1, 1)
    products = F.conv2d(x, weight_per_tap).reshape(batch * TAPS, out_channels, height, width)
    with torch.autocast(x.device.type, enabled=False):
        grid = _sampling_grid(offsets.float())
        # align_corners=True would divide by width - 1, which may be 0.
        sampled = F.grid_sample(products.float(), grid, align_corners=False)
        taps = sampled.view(batch, TAPS, out_channels, height, width).unbind(dim=1)
        strengths = mask.float().unsqueeze(2).unbind(dim=1)
        total = taps[0] * strengths[0]
        for tap, strength in zip(taps[1:], strengths[1:], strict=True):
            total = torch.addcmul(total, tap, strength)  # needs no tensor of all products
        return total.to(x.dtype)


def _sampling_grid(offsets: Float[Tensor, "B 18 H W"]) -> Float[Tensor, "n H W 2"]:
    """Return where each tap samples the map for each cell, as ``(x, y)`` for ``F.grid_sample``.

    The edges of the map are at -1 and 1.
    """
    batch, _, height, width = offsets.shape
    tap = torch.arange(-1.0, 2.0, device=offsets.device)
    row = torch.arange(height, device=offsets.device).view(-1, 1) + tap.view(3, 1, 1, 1)
    column = torch.arange(width, device=offsets.device) + tap.view(1, 3, 1, 1)
    offset_y, offset_x = offsets.reshape(batch, 3, 3, 2, height, width).unbind(dim=3)
    y = (2 * (row + offset_y) + 1) / height - 1
    x = (2 * (column + offset_x) + 1) / width - 1
    return torch.stack((x, y), dim=-1).view(batch * TAPS, height, width, 2)


class DeformConv(nn.Module):
    """Modulated deformable 3 x 3 convolution with one group, stride 1 and no bias.

    Offsets and mask come from an ordinary 3 x 3 convolution of the same input, ``conv_offset``:
    its first 18 channels are the offsets, and the sigmoid of the last 9 is the mask. Its weights
    are initially zero, so the layer starts as a plain convolution multiplied by 0.5.

    Maps ``[B, in_channels, H, W]`` to ``[B, out_channels, H, W]``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as nn.Conv2d
        self.conv_offset = nn.Conv2d(in_channels, 3 * TAPS, kernel_size=3, padding=1)
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "B C_in H W"]) -> Float[Tensor, "B C_out H W"]:
        """Return the convolved maps."""
        offsets, mask = self.conv_offset(x).split((2 * TAPS, TAPS), dim=1)
        return deform_conv(x, offsets, mask.sigmoid(), self.weight)


class DeformConvBlock(nn.Module):
    """Applies a deformable 3 x 3 convolution, batch normalisation and ReLU.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = DeformConv(in_channels, out_channels)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Float[Tensor, "B C_in H W"]) -> Float[Tensor, "B C_out H W"]:
        """Return the maps after convolution, batch normalisation and ReLU."""
        return F.relu(self.bn(self.conv(x)))
