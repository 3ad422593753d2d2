"""Path aggregation network of the YOLOX type: a top-down pyramid, then a bottom-up one.

Sources: S. Liu et al., "Path Aggregation Network for Instance Segmentation" (arXiv 1803.01534);
Z. Ge et al., "YOLOX" (arXiv 2107.08430); C.-Y. Wang et al., "CSPNet" (arXiv 1911.11929).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vodet.conv_block import conv_block
from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.errors import ConfigError


class PAFPN(nn.Module):
    """Path aggregation network: merges coarse levels into fine ones, then fine into coarse ones.

    In the top-down path, each level is upsampled and concatenated with the next finer level. In the
    bottom-up path, each level is downsampled by a strided convolution and concatenated with the
    next coarser level. A cross-stage partial block merges the two levels in each step.

    Args:
        spec: Levels of the backbone's maps.
        channels: Number of output channels of each level.
        depth: Number of bottlenecks in each cross-stage partial block: 1 in YOLOX-s, 3 in YOLOX-l.

    Raises:
        ConfigError: If a stride is not a multiple of the stride of the next finer level.
    """

    def __init__(self, spec: FeatureSpec, channels: int = 256, depth: int = 1) -> None:
        super().__init__()
        steps = list(pairwise(spec.strides))
        if any(coarse % fine for fine, coarse in steps):
            msg = (
                "PAFPN needs levels whose strides are each a multiple of the previous stride; "
                f"found {spec.strides}. Set model.backbone.strides, for instance to [8, 16, 32]."
            )
            raise ConfigError(msg)
        self.spec = FeatureSpec((channels,) * len(spec.strides), spec.strides)
        self.laterals = nn.ModuleList(conv_block(width, channels, 1) for width in spec.channels)
        self.down = nn.ModuleList(CSPBlock(2 * channels, channels, depth) for _ in steps)
        self.reduce = nn.ModuleList(
            conv_block(channels, channels, 3, coarse // fine) for fine, coarse in steps
        )
        self.up = nn.ModuleList(CSPBlock(2 * channels, channels, depth) for _ in steps)

    def forward(self, maps: FeatureMaps) -> FeatureMaps:
        """Turn maps ``[N, C_level, h, w]`` into maps ``[N, channels, h, w]`` of the same levels."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps.levels, strict=True)]
        for number in reversed(range(len(self.down))):
            coarse = F.interpolate(levels[number + 1], size=levels[number].shape[-2:])
            levels[number] = self.down[number](torch.cat((levels[number], coarse), dim=1))
        for number, (reduce, merge) in enumerate(zip(self.reduce, self.up, strict=True), start=1):
            fine = reduce(levels[number - 1])
            levels[number] = merge(torch.cat((fine, levels[number]), dim=1))
        return FeatureMaps(tuple(levels))


class CSPBlock(nn.Module):
    """Cross-stage partial block, with 3 x 3 convolutions on only one half of the channels.

    Two 1 x 1 convolutions reduce the map to ``channels / 2`` channels each. The first result passes
    through blocks of a 1 x 1 and a 3 x 3 convolution; then both are concatenated and merged.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        depth: Number of blocks on the first half.
    """

    def __init__(self, in_channels: int, channels: int, depth: int) -> None:
        super().__init__()
        half = channels // 2
        self.through = conv_block(in_channels, half, 1)
        self.beside = conv_block(in_channels, half, 1)
        blocks = [
            nn.Sequential(conv_block(half, half, 1), conv_block(half, half)) for _ in range(depth)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.out = conv_block(2 * half, channels, 1)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D h w"]:
        """Return a map with ``channels`` channels and the size of ``x``."""
        merged: Tensor = self.out(torch.cat((self.blocks(self.through(x)), self.beside(x)), dim=1))
        return merged
