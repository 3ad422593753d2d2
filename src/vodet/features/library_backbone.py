"""The base class of backbones from a library: normalisation, padding and freezing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Num, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.errors import ConfigError
from vodet.features.frame_size import Size
from vodet.freezing import find_modules, freeze


class LibraryBackbone(nn.Module):
    """Normalises uint8 RGB frames and computes their feature maps with a model from a library.

    Frozen modules stay in evaluation mode and get no gradient; if no trainable module comes before
    them, autograd does not record them either.

    Args:
        name: Name of the model in the library.
        net: The model.
        spec: Channels and strides of the levels that `levels_of` returns.
        divisor: The sides of the frames that the model gets are multiples of this number.
        mean: Mean of the three channels that is used for normalisation, in the network's channel
            order, on a scale of 0 to 255.
        std: Standard deviation of the three channels, like ``mean``.
        frozen: Names of modules that are not trained.
        frozen_norm: Whether to freeze all batch norms.
        norm_eps: Constant that is added to the variance in batch norms; None means the library's
            value.
        channel_order: ``rgb``, or ``bgr`` for networks with reversed channels.
        padding: Colour of the padding at the right and bottom: ``black``, or ``mean``, which is 0
            after normalisation.
        frame_size: ``(height, width)`` to which frames are padded; None if the model accepts frames
            of any size.

    Attributes:
        size_divisor: The sides of the frames must be multiples of this number: ``divisor``, or 1 if
            the backbone pads the frames itself, to ``frame_size`` or because ``padding`` is
            ``mean``.

    Raises:
        ConfigError: If the model has no such module, or ``channel_order`` or ``padding`` is
            unknown.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        net: nn.Module,
        spec: FeatureSpec,
        divisor: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        frozen: Sequence[str],
        frozen_norm: bool,
        norm_eps: float | None,
        channel_order: str,
        padding: str,
        frame_size: Size | None = None,
    ) -> None:
        super().__init__()
        if channel_order not in ("rgb", "bgr"):
            msg = f"channel_order must be rgb or bgr, found {channel_order!r}."
            raise ConfigError(msg)
        if padding not in ("black", "mean"):
            msg = f"padding must be black or mean, found {padding!r}."
            raise ConfigError(msg)
        self.name, self.net, self.spec = name, net, spec
        self.channel_order = channel_order
        self.padding = padding
        self.frame_size = frame_size
        self._divisor = divisor
        self.size_divisor = 1 if frame_size is not None or padding == "mean" else divisor
        for statistic, values in (("mean", mean), ("std", std)):
            self.register_buffer(
                statistic, torch.tensor(list(values)).view(1, 3, 1, 1), persistent=False
            )
        if norm_eps is not None:
            for norm in _norms(net):
                norm.eps = norm_eps
        self.frozen = tuple(frozen)
        self.frozen_norm = frozen_norm
        self.train(self.training)

    def levels_of(self, pixels: Float[Tensor, "N 3 H W"]) -> list[Tensor]:
        """Return the maps ``[N, C, h, w]`` of normalised and padded frames, one per level."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> LibraryBackbone:
        """Set the training mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        freeze(find_modules(self.net, self.frozen, self.name))
        if self.frozen_norm:
            freeze(_norms(self.net))
        return self

    def forward(self, frames: UInt8[Tensor, "N 3 H W"]) -> FeatureMaps:
        """Return the feature maps of frames, one per level of ``spec``.

        Raises:
            ConfigError: If the sides of the frames are not multiples of ``size_divisor``, or longer
                than ``frame_size``.
        """
        height, width = frames.shape[-2:]
        if height % self.size_divisor or width % self.size_divisor:
            msg = (
                f"{self.name} needs frames whose sides are multiples of {self.size_divisor}, found "
                f"{height} x {width} (height x width). Pad or resize the frames."
            )
            raise ConfigError(msg)
        if self.padding == "black":
            frames = self._padded(frames)
        if self.channel_order == "bgr":
            frames = frames.flip(1)
        normalised = (frames - self.mean) / self.std
        return FeatureMaps(tuple(self.levels_of(self._padded(normalised))))

    def _padded(self, frames: Num[Tensor, "N 3 H W"]) -> Num[Tensor, "N 3 h w"]:
        """Pad frames at the right and bottom with zeros to a size that the model accepts."""
        height, width = self.frame_size or (
            -(-side // self._divisor) * self._divisor for side in frames.shape[-2:]
        )
        bottom, right = height - frames.shape[-2], width - frames.shape[-1]
        if bottom < 0 or right < 0:
            msg = (
                f"{self.name} is built for frames of at most {height} x {width} (height x width), "
                f"found {frames.shape[-2]} x {frames.shape[-1]}. Make model.backbone.img_size "
                "larger, or data.resize smaller."
            )
            raise ConfigError(msg)
        return F.pad(frames, (0, right, 0, bottom)) if bottom or right else frames


def _norms(net: nn.Module) -> list[_BatchNorm]:
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]
