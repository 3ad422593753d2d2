"""From the levels of the backbone to other levels, each frame by itself.

``Identity``, ``Projection`` and ``FPN`` come before the temporal fusion. The necks, ``SumNeck`` and
``ReleasedNeck``, make a single map of all levels; a head that works on one map takes one of them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from vodet.deform_conv import DeformConvBlock
from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.errors import ConfigError


class Identity(nn.Module):
    """Keeps the levels of the backbone.

    Args:
        spec: The levels.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, maps: FeatureMaps) -> FeatureMaps:
        """Return the maps."""
        return maps


class Projection(nn.Module):
    """Brings every level to a common width by its own 1 x 1 convolution.

    Where levels are wide (ResNet-50: 256 to 2048 channels) a fusion of the raw levels costs as
    much as the backbone.

    Args:
        spec: The levels.
        channels: Width of each level afterwards.
    """

    def __init__(self, spec: FeatureSpec, channels: int) -> None:
        super().__init__()
        self.spec = FeatureSpec((channels,) * len(spec.channels), spec.strides)
        self.convs = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in spec.channels)

    def forward(self, maps: FeatureMaps) -> FeatureMaps:
        """Turn maps ``[N, C_level, h, w]`` into maps ``[N, channels, h, w]``."""
        return FeatureMaps(
            tuple(conv(level) for conv, level in zip(self.convs, maps.levels, strict=True))
        )


class FPN(nn.Module):
    """Feature pyramid network: semantics of the coarse levels on the grids of the fine ones.

    Source: T.-Y. Lin et al., "Feature Pyramid Networks for Object Detection" (arXiv 1612.03144);
    torchvision's, with the level of every second cell of the coarsest added.

    Args:
        spec: The levels.
        channels: Width of each level afterwards.
        norm: Batch norm after each convolution.
    """

    def __init__(self, spec: FeatureSpec, channels: int = 256, norm: bool = False) -> None:
        super().__init__()
        strides = (*spec.strides, 2 * spec.strides[-1])
        self.spec = FeatureSpec((channels,) * len(strides), strides)
        self.net = FeaturePyramidNetwork(
            list(spec.channels),
            channels,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=nn.BatchNorm2d if norm else None,
        )

    def forward(self, maps: FeatureMaps) -> FeatureMaps:
        """Turn maps ``[N, C_level, h, w]`` into maps ``[N, channels, h, w]``, one level more."""
        levels = self.net({str(number): level for number, level in enumerate(maps.levels)})
        return FeatureMaps(tuple(levels.values()))


class SumNeck(nn.Module):
    """One map at the finest stride: levels projected, enlarged, summed and smoothed.

    ``relu(bn(conv3x3(sum_l(upsample(conv1x1_l(x_l))))))``, bilinear.

    Args:
        spec: The levels.
        channels: Width of the map.
    """

    def __init__(self, spec: FeatureSpec, channels: int = 256) -> None:
        super().__init__()
        self.spec = FeatureSpec((channels,), spec.strides[:1])
        self.projection = Projection(spec, channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )

    def forward(self, maps: FeatureMaps) -> FeatureMaps:
        """Turn all levels into one map ``[N, channels, h, w]`` on the grid of the finest."""
        total, *coarser = self.projection(maps).levels
        for level in coarser:
            total = total + F.interpolate(level, size=total.shape[-2:], mode="bilinear")
        return FeatureMaps((self.smooth(total),))


class ReleasedNeck(nn.Module):
    """One map at the finest stride, with the parts of the neck that the authors of STF released.

    From the coarsest level upwards, each step takes the map through a deformable convolution (to
    the channels of the next finer level), a transposed convolution that doubles its grid, and a
    gate by place; then the map gates itself, and a 3 x 3 and a 1 x 1 convolution follow. The
    parts are the released ones. How they are joined is ours, as the released code fits maps of
    32 x 32 only: that the next finer level is added after each step.

    Args:
        spec: The levels; each stride twice the one before.
        channels: Width of the map.

    Raises:
        ConfigError: If the strides do not double.
    """

    def __init__(self, spec: FeatureSpec, channels: int = 256) -> None:
        super().__init__()
        finest = spec.strides[0]
        expected = tuple(finest * 2**level for level in range(len(spec.strides)))
        if spec.strides != expected:
            msg = (
                f"ReleasedNeck doubles the grid from level to level: expected strides {expected}, "
                f"found {spec.strides}. Choose such levels of the backbone, or SumNeck."
            )
            raise ConfigError(msg)
        self.spec = FeatureSpec((channels,), (finest,))
        widths = spec.channels
        self.steps = nn.ModuleList(_UpStep(coarse, fine) for fine, coarse in pairwise(widths))
        self.gate = nn.Conv2d(widths[0], widths[0], kernel_size=3, padding=1)
        self.out = nn.Sequential(
            nn.Conv2d(widths[0], widths[0], kernel_size=3, padding=1),
            nn.Conv2d(widths[0], channels, kernel_size=1),
        )

    def forward(self, maps: FeatureMaps) -> FeatureMaps:
        """Turn all levels into one map ``[N, channels, h, w]`` on the grid of the finest."""
        *finer, x = maps.levels
        for step, level in zip(reversed(self.steps), reversed(finer), strict=True):
            x = level + step(x)
        return FeatureMaps((self.out(x * torch.sigmoid(self.gate(x))),))


class _UpStep(nn.Module):
    """Deformable convolution, doubling of the grid, gate by place."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.deform_conv = DeformConvBlock(in_channels, out_channels)
        self.enlarge = nn.Sequential(
            nn.ConvTranspose2d(out_channels, out_channels, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )
        self.gate = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=False)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D H W"]:
        x = self.enlarge(self.deform_conv(x))
        summary = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.gate(summary))
