"""Convolution, batch norm and SiLU: the building block of the YOLOX type.

Source: Z. Ge et al., "YOLOX" (arXiv 2107.08430).
"""

from __future__ import annotations

from torch import nn


def conv_block(
    in_channels: int, channels: int, kernel_size: int = 3, stride: int = 1
) -> nn.Sequential:
    """Return a convolution with padding, batch norm with the settings of YOLOX, and SiLU."""
    padding = kernel_size // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, padding, bias=False),
        nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03),
        nn.SiLU(),
    )
