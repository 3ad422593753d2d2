"""The building block of YOLOX: convolution, batch norm and SiLU.

Source: Z. Ge et al., "YOLOX" (arXiv 2107.08430).
"""

from __future__ import annotations

from torch import nn


def conv_block(
    in_channels: int, channels: int, kernel_size: int = 3, stride: int = 1
) -> nn.Sequential:
    """Return a convolution without bias, a batch norm with YOLOX's settings, and SiLU, in sequence.

    The convolution pads, so with stride 1 the map keeps its size.
    """
    padding = kernel_size // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, padding, bias=False),
        nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03),
        nn.SiLU(),
    )
