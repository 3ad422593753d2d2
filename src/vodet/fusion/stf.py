"""STF: fuses the reference frame's map of each level with the support frames' maps of the level.

Source: N. Anwar, G.-A. Bilodeau, W. Bouachir, "STF: Spatio-Temporal Fusion Module for Improving
Video Object Detection" (arXiv 2402.10752).

The three modules follow the released code and the figure of the paper. The released code cannot be
run: its configuration does not fit its constructor, and it never loads a previous frame. The
validation curve published with the code cannot come from validation. So no published number of STF
is a target to reproduce. Three choices are ours: any number of support frames, one STF per level,
and pooling to the grid of the level (the released code pools to 32 x 32).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vodet.deform_conv import DeformConvBlock
from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.errors import ConfigError

MERGES = ("concat", "add")


class MultiFrameAttention(nn.Module):
    """Adds the weighted mean of the support frames' maps to the reference frame's map.

    With the reference frame's map x_t and the map x_k of support frame k, the output is
    ``X_o = x_t + mean_k(w_k * x_k)``. The weights are per channel:
    ``w_k = sigmoid(W2 relu(W1 (gap(x_t) + gap(x_k))))``, where gap is the spatial mean, ``W1``
    reduces the channels to a quarter and ``W2`` restores their number.

    Args:
        channels: Channels of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // 4)
        self.bottleneck = nn.Linear(channels, narrow)
        self.fc = nn.Linear(narrow, channels)

    def forward(
        self, x: Float[Tensor, "B C H W"], support: Float[Tensor, "B K C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the reference frame's map x, fused with the maps of ``K >= 1`` support frames."""
        context = x.mean(dim=(-2, -1)).unsqueeze(1) + support.mean(dim=(-2, -1))  # [B, K, C]
        weights = torch.sigmoid(self.fc(F.relu(self.bottleneck(context))))
        return x + torch.mean(weights[..., None, None] * support, dim=1)


class SingleFrameAttention(nn.Module):
    """Applies channel attention, then spatial attention, to the map x of one frame.

    ``y = x * sigmoid(conv1x1(gap(x) + gmp(x)))``, then the output is ``X_s = y *
    sigmoid(conv5x5([mean_c(y); max_c(y)]))``. gap and gmp are the spatial mean and maximum; mean_c
    and max_c are taken over channels.

    Args:
        channels: Channels of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(channels, channels, kernel_size=1)
        self.conv5x5 = nn.Conv2d(2, 1, kernel_size=5, padding=2, bias=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the map, multiplied by the attention of each channel and of each position."""
        context = x.mean(dim=(-2, -1), keepdim=True) + x.amax(dim=(-2, -1), keepdim=True)
        x = x * torch.sigmoid(self.conv1x1(context))
        summary = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.conv5x5(summary))


class DualFrameFusion(nn.Module):
    """Aligns and fuses the results of the two attention modules, ``X_o`` and ``X_s``.

    The result is ``relu(bn(dcn([X_o; X_s])))`` for ``merge="concat"``, as in the released code, or
    ``relu(bn(dcn(X_o))) + X_s`` for ``merge="add"``, as in the figure of the paper. dcn is a
    deformable convolution whose output has as many channels as one map. If the grids differ,
    ``X_s`` is first average-pooled to the grid of ``X_o``.

    Args:
        channels: Channels of each map.
        merge: ``concat`` or ``add``.

    Raises:
        ConfigError: If ``merge`` is unknown.
    """

    def __init__(self, channels: int, merge: str = "concat") -> None:
        super().__init__()
        if merge not in MERGES:
            msg = f"STF: merge must be one of {', '.join(MERGES)}; found {merge!r}."
            raise ConfigError(msg)
        self.merge = merge
        self.deform_conv = DeformConvBlock(channels * (2 if merge == "concat" else 1), channels)

    def forward(
        self, multi: Float[Tensor, "B C H W"], single: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the fused map.

        Args:
            multi: Output of `MultiFrameAttention`, ``X_o``.
            single: Output of `SingleFrameAttention`, ``X_s``.
        """
        height, width = multi.shape[-2:]
        if single.shape[-2:] != (height, width):
            single = F.adaptive_avg_pool2d(single, (height, width))
        fused: Tensor
        if self.merge == "concat":
            fused = self.deform_conv(torch.cat((multi, single), dim=1))
        else:
            fused = self.deform_conv(multi) + single
        return fused


class LevelFusion(nn.Module):
    """STF of one level: fuses the results of multi-frame and single-frame attention.

    Args:
        channels: Channels of the level.
        merge: ``concat`` or ``add``, see `DualFrameFusion`.
    """

    def __init__(self, channels: int, merge: str = "concat") -> None:
        super().__init__()
        self.multi = MultiFrameAttention(channels)
        self.single = SingleFrameAttention(channels)
        self.fusion = DualFrameFusion(channels, merge)

    def forward(
        self, window: Float[Tensor, "B T C H W"], reference: int
    ) -> Float[Tensor, "B C H W"]:
        """Return the fused map of the reference frame.

        In a window of a single frame, this frame also serves as the support frame.

        Args:
            window: Maps of all frames of the windows.
            reference: Position of the reference frame in the windows.
        """
        x = window[:, reference]
        support = torch.cat((window[:, :reference], window[:, reference + 1 :]), dim=1)
        if window.shape[1] == 1:
            support = window
        fused: Tensor = self.fusion(self.multi(x, support), self.single(x))
        return fused


class STF(nn.Module):
    """Spatio-temporal fusion with separate weights for each level.

    The only frame of a video, or the first frame of a stream, is fused with itself. With several
    support frames, their weighted maps are averaged.

    Args:
        spec: Levels of the maps, with their channels.
        merge: ``concat`` as in the released code or ``add`` as in the figure of the paper.

    Raises:
        ConfigError: If ``merge`` is unknown.
    """

    def __init__(self, spec: FeatureSpec, merge: str = "concat") -> None:
        super().__init__()
        self.levels = nn.ModuleList(LevelFusion(channels, merge) for channels in spec.channels)

    def forward(self, window: FeatureMaps, reference: int) -> FeatureMaps:
        """Fuse maps ``[B, T, C, h, w]`` into maps ``[B, C, h, w]`` of frame ``reference``."""
        return FeatureMaps(
            tuple(
                fuse(level, reference)
                for fuse, level in zip(self.levels, window.levels, strict=True)
            )
        )
