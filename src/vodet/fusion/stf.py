"""STF: each level of the reference frame is joined with those of the support frames.

Source: N. Anwar, G.-A. Bilodeau, W. Bouachir, "STF: Spatio-Temporal Fusion Module for Improving
Video Object Detection" (arXiv 2402.10752).

What is certain: the three parts, as the released code defines them and the figure of the paper
shows them. What is not: the code cannot be run as released (its configuration does not fit its
constructor, and nothing in it loads a previous frame), and the validation curve shown with it
cannot be one, so no published number of STF is a target to reproduce. Ours are: several support
frames or none, one STF per level, and pooling to the grid of the level, where the released code
pools to 32 x 32.
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
    """Adds the channels of other frames that the context of both frames asks for.

    ``w_k = sigmoid(W2 relu(W1 (gap(x_t) + gap(x_k))))`` and ``X_o = x_t + mean_k(w_k * x_k)``, with
    gap the mean over space, ``W1`` the bottleneck to a quarter of the channels and ``W2`` the way
    back.

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
        """Join a map with those of at least one support frame."""
        context = x.mean(dim=(-2, -1)).unsqueeze(1) + support.mean(dim=(-2, -1))  # [B, K, C]
        weights = torch.sigmoid(self.fc(F.relu(self.bottleneck(context))))
        return x + torch.mean(weights[..., None, None] * support, dim=1)


class SingleFrameAttention(nn.Module):
    """Keeps the channels, then the places, that stand out in one frame.

    ``y = x * sigmoid(conv1x1(gap(x) + gmp(x)))`` and ``X_s = y * sigmoid(conv5x5([mean_c(y);
    max_c(y)]))``, with gap and gmp the mean and the maximum over space.

    Args:
        channels: Channels of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(channels, channels, kernel_size=1)
        self.conv5x5 = nn.Conv2d(2, 1, kernel_size=5, padding=2, bias=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Gate a map by channel, then by place."""
        context = x.mean(dim=(-2, -1), keepdim=True) + x.amax(dim=(-2, -1), keepdim=True)
        x = x * torch.sigmoid(self.conv1x1(context))
        summary = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.conv5x5(summary))


class DualFrameFusion(nn.Module):
    """Aligns and joins the results of the two attentions, ``X_o`` and ``X_s``.

    ``concat`` (released code): ``relu(bn(dcn([X_o; X_s])))``. ``add`` (figure of the paper):
    ``relu(bn(dcn(X_o))) + X_s``. dcn is a deformable convolution to the channels of one map;
    ``X_s`` is first averaged to the grid of ``X_o`` where they differ.

    Args:
        channels: Channels of each map.
        merge: How the two are joined.

    Raises:
        ConfigError: If ``merge`` is neither.
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
        """Join the outputs of multi-frame and single-frame attention."""
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
    """STF of one level: ``fusion(multi(x_t, x_k), single(x_t))``.

    Args:
        channels: Channels of the level.
        merge: See ``DualFrameFusion``.
    """

    def __init__(self, channels: int, merge: str = "concat") -> None:
        super().__init__()
        self.multi = MultiFrameAttention(channels)
        self.single = SingleFrameAttention(channels)
        self.fusion = DualFrameFusion(channels, merge)

    def forward(
        self, window: Float[Tensor, "B T C H W"], reference: int
    ) -> Float[Tensor, "B C H W"]:
        """Fuse a window; a frame without support frames supports itself."""
        x = window[:, reference]
        support = torch.cat((window[:, :reference], window[:, reference + 1 :]), dim=1)
        if window.shape[1] == 1:
            support = window
        fused: Tensor = self.fusion(self.multi(x, support), self.single(x))
        return fused


class STF(nn.Module):
    """Spatio-temporal fusion with its own weights for each level.

    A video of one frame, or the first frame of a stream, is fused with itself; with several
    support frames the attended maps are averaged.

    Args:
        spec: Levels of the maps, with their channels.
        merge: ``concat`` as the released code or ``add`` as the figure of the paper.

    Raises:
        ConfigError: If ``merge`` is neither.
    """

    def __init__(self, spec: FeatureSpec, merge: str = "concat") -> None:
        super().__init__()
        self.levels = nn.ModuleList(LevelFusion(channels, merge) for channels in spec.channels)

    def forward(self, window: FeatureMaps, reference: int) -> FeatureMaps:
        """Fuse maps ``[B, T, C, h, w]`` into those of frame ``reference``, ``[B, C, h, w]``."""
        return FeatureMaps(
            tuple(
                fuse(level, reference)
                for fuse, level in zip(self.levels, window.levels, strict=True)
            )
        )
