"""Pyramids and necks: modules that process the feature maps of each frame separately.

The pyramids ``Identity``, ``Projection`` and ``FPN`` come between the backbone and the temporal
fusion. The necks ``SumNeck`` and ``ReleasedNeck`` are the first part of heads that work on a single
map: they merge all levels into one map.
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
    """A pyramid that returns the backbone's feature maps unchanged.

    Args:
        spec: Levels of the backbone's maps.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, maps: FeatureMaps) -> FeatureMaps:
        """Return ``maps`` unchanged."""
        return maps


class Projection(nn.Module):
    """Gives all levels the same number of channels, with one 1 x 1 convolution per level.

    If the levels have many channels (ResNet-50: 256 to 2048), a fusion without a projection costs
    as much time as the backbone.

    Args:
        spec: Levels of the backbone's maps.
        channels: Number of output channels of each level.
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
    """Feature pyramid network: adds the semantics of the coarse levels to the fine levels.

    Source: T.-Y. Lin et al., "Feature Pyramid Networks for Object Detection" (arXiv 1612.03144), in
    torchvision's implementation. It adds a level with twice the coarsest stride, which consists of
    every second cell of the coarsest level in each direction.

    Args:
        spec: Levels of the backbone's maps.
        channels: Number of output channels of each level.
        norm: Whether a batch norm follows each convolution.
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
        """Turn maps ``[N, C_level, h, w]`` into ``[N, channels, h, w]``, with one more level."""
        levels = self.net({str(number): level for number, level in enumerate(maps.levels)})
        return FeatureMaps(tuple(levels.values()))


class SumNeck(nn.Module):
    """Merges all levels into one map at the finest stride: projects, upsamples, adds and smooths.

    The map is ``relu(bn(conv3x3(sum_l(upsample(conv1x1_l(x_l))))))``, with bilinear upsampling.

    Args:
        spec: Levels of the input maps.
        channels: Number of channels of the merged map.
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
        """Turn all levels into one map ``[N, channels, h, w]`` on the finest grid."""
        total, *coarser = self.projection(maps).levels
        for level in coarser:
            total = total + F.interpolate(level, size=total.shape[-2:], mode="bilinear")
        return FeatureMaps((self.smooth(total),))


class ReleasedNeck(nn.Module):
    """Merges all levels into one map at the finest stride, with layers of STF's released neck.

    It starts with the map of the coarsest level. Each step applies a deformable convolution (to the
    channels of the next finer level), a transposed convolution that doubles the grid, and spatial
    attention. After each step, the next finer level is added. The final map is multiplied by the
    sigmoid of its 3 x 3 convolution; then a 3 x 3 and a 1 x 1 convolution follow.

    Adding the finer levels is our choice: the released code works only on maps of 32 x 32.

    Args:
        spec: Levels of the input maps; each stride is twice the previous stride.
        channels: Number of channels of the merged map.

    Raises:
        ConfigError: If the strides do not double.
    """

    def __init__(self, spec: FeatureSpec, channels: int = 256) -> None:
        super().__init__()
        finest = spec.strides[0]
        expected = tuple(finest * 2**level for level in range(len(spec.strides)))
        if spec.strides != expected:
            msg = (
                f"ReleasedNeck needs levels whose strides double: expected {expected}, found "
                f"{spec.strides}. Set model.backbone.strides, or use SumNeck."
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
        """Turn all levels into one map ``[N, channels, h, w]`` on the finest grid."""
        *finer, x = maps.levels
        for step, level in zip(reversed(self.steps), reversed(finer), strict=True):
            x = level + step(x)
        return FeatureMaps((self.out(x * torch.sigmoid(self.gate(x))),))


class _UpStep(nn.Module):
    """A step of `ReleasedNeck`: doubles the height and width of a map and changes its channels."""

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
