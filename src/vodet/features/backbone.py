"""Backbones from the timm library, which compute feature maps of uint8 frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from jaxtyping import Num, UInt8
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.errors import CheckpointError, ConfigError
from vodet.features.frame_size import build_without_weights, find_frame_size, to_channels_first
from vodet.freezing import find_modules, freeze
from vodet.pretrained import allowed_source


class TimmBackbone(nn.Module):
    """Normalises uint8 RGB frames and computes their feature maps with a timm model.

    HRNet returns the outputs of its branches (32 to 256 channels for ``hrnet_w32``), not the wider
    maps of its classifier. Frozen modules stay in evaluation mode and get no gradient; if no
    trainable module comes before them, autograd does not record them either.

    Args:
        name: Name of the model in timm, with or without the tag of the weights.
        strides: Strides of the levels to return. If several levels of the model have the same
            stride, the last of them is returned.
        pretrained: Whether to load timm's pretrained weights, from its cache or the hub.
        checkpoint_path: File from which to load the weights instead; no code in it is executed.
        frozen: Names of modules that are not trained, such as ``("conv1", "bn1", "layer1")``.
        frozen_norm: Whether to freeze all batch norms, as is usual with pretrained weights and
            small batches.
        norm_eps: Constant that is added to the variance in batch norms; None means timm's value.
        mean: Mean of the three channels that is used for normalisation, in the network's channel
            order, on a scale of 0 to 255; None means timm's value for these weights.
        std: Standard deviation of the three channels, like ``mean``.
        channel_order: ``rgb``, or ``bgr`` for networks with reversed channels, as in Caffe and
            detectron2.
        padding: Colour of the padding at the right and bottom: ``black``, or ``mean``, which is 0
            after normalisation, as in torchvision and detectron2.
        stride_in_1x1: Whether to move the stride of bottleneck blocks from the 3 x 3 to the first
            1 x 1 convolution, as in the ResNets (not the ResNeXts) of Caffe and detectron2.
        img_size: ``(height, width)`` in pixels. For models built for a fixed size, the size of the
            largest frames; smaller frames are padded to it. For ViTs that take any size, the frame
            size for which the position embeddings are created; they are interpolated for other
            sizes. Most other models have no such argument.
        model_kwargs: Further arguments of the timm model, such as ``drop_path_rate``.

    Attributes:
        spec: Channels and strides of the levels.
        size_divisor: The sides of the frames must be multiples of this number: the coarsest stride
            of the network, even if ``strides`` does not contain it. It is 1 if the backbone pads
            the frames itself, to ``frame_size`` or because ``padding`` is ``mean``.
        frame_size: ``(height, width)`` to which the backbone pads frames; None if the model accepts
            frames of any size.

    Raises:
        ConfigError: If timm has no such model, the model has no such level or module,
            ``channel_order`` or ``padding`` is unknown, or the model is built for a fixed size and
            ``img_size`` is not given.
        CheckpointError: If the weights cannot be loaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        strides: Sequence[int] = (4, 8, 16, 32),
        pretrained: bool = False,
        checkpoint_path: str | Path | None = None,
        frozen: Sequence[str] = (),
        frozen_norm: bool = False,
        norm_eps: float | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channel_order: Literal["rgb", "bgr"] = "rgb",
        padding: Literal["black", "mean"] = "black",
        stride_in_1x1: bool = False,
        img_size: Sequence[int] | None = None,
        **model_kwargs: Any,
    ) -> None:
        super().__init__()
        if channel_order not in ("rgb", "bgr"):
            msg = f"channel_order must be rgb or bgr, found {channel_order!r}."
            raise ConfigError(msg)
        if padding not in ("black", "mean"):
            msg = f"padding must be black or mean, found {padding!r}."
            raise ConfigError(msg)
        self.channel_order = channel_order
        self.padding = padding
        self.name = name
        if name.startswith("hrnet"):
            model_kwargs = {"feature_location": ""} | model_kwargs
        info = build_without_weights(name, model_kwargs).feature_info
        levels = [info[index] for index in range(len(info))]
        indices = _indices(name, levels, tuple(strides))
        self.spec = FeatureSpec(tuple(levels[i]["num_chs"] for i in indices), tuple(strides))
        model_kwargs["out_indices"] = indices
        divisor = max(level["reduction"] for level in levels)
        size = None if img_size is None else (img_size[0], img_size[1])
        model_kwargs, self.frame_size = find_frame_size(name, model_kwargs, size, divisor)
        self._divisor = divisor
        pads = self.frame_size is not None or padding == "mean"
        self.size_divisor = 1 if pads else divisor
        net = _build(name, *allowed_source(pretrained, checkpoint_path), model_kwargs)
        self.net: nn.Module = net
        for statistic, given in (("mean", mean), ("std", std)):
            values = given or [255 * share for share in net.pretrained_cfg[statistic]]
            self.register_buffer(statistic, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        if stride_in_1x1:
            _move_strides(net, name)
        if norm_eps is not None:
            for norm in _norms(net):
                norm.eps = norm_eps
        self.frozen = tuple(frozen)
        self.frozen_norm = frozen_norm
        self.train(self.training)

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the training mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        freeze(find_modules(self.net, self.frozen, self.name))
        if self.frozen_norm:
            freeze(_norms(self.net))
        return self

    def forward(self, frames: UInt8[Tensor, "N 3 H W"]) -> FeatureMaps:
        """Return the feature maps of frames, one per stride in ``spec.strides``.

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
        levels = self.net(self._padded(normalised))
        return FeatureMaps(tuple(to_channels_first(self.net, levels)))

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


def _indices(name: str, levels: list[dict[str, Any]], strides: tuple[int, ...]) -> tuple[int, ...]:
    index_of = {level["reduction"]: index for index, level in enumerate(levels)}
    if not strides or not set(strides) <= set(index_of):
        possible = [stride for stride in index_of if stride in strides] or list(index_of)
        msg = (
            f"{name} has levels with strides {list(index_of)}, found strides={list(strides)}. Set "
            f"model.backbone.strides to one or more of the model's strides, such as {possible}."
        )
        raise ConfigError(msg)
    return tuple(index_of[stride] for stride in strides)


def _build(
    name: str, pretrained: bool, checkpoint_path: str | Path | None, model_kwargs: dict[str, Any]
) -> Any:
    """Build the model and load its weights.

    `build_without_weights` has already built the model, so any error here is due to the weights.
    """
    if checkpoint_path is not None:
        model_kwargs = model_kwargs | {"pretrained_cfg_overlay": {"file": str(checkpoint_path)}}
        pretrained = True
    source = checkpoint_path or "timm's cache or the Hugging Face hub"
    try:
        net = timm.create_model(name, pretrained=pretrained, features_only=True, **model_kwargs)
    except Exception as error:
        msg = f"Cannot load weights of {name} from {source}: {type(error).__name__}: {error}"
        raise CheckpointError(msg) from error
    if checkpoint_path is not None and (missing := _missing_weights(net, checkpoint_path)):
        msg = (
            f"Cannot load weights of {name} from {source}: {len(missing)} weights of the model are "
            f"not in it, such as {min(missing)!r}. Choose a file with weights of this model."
        )
        raise CheckpointError(msg)
    return net


def _move_strides(net: nn.Module, name: str) -> None:
    """Move the strides of bottleneck blocks from the 3 x 3 to the first 1 x 1 convolution."""
    blocks: list[Any] = [block for block in net.modules() if hasattr(block, "conv3")]
    if not blocks:
        msg = (
            f"stride_in_1x1=true needs a ResNet with bottleneck blocks, but {name} has none: set "
            "model.backbone.stride_in_1x1=false."
        )
        raise ConfigError(msg)
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _norms(net: nn.Module) -> list[_BatchNorm]:
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]


def _missing_weights(net: nn.Module, checkpoint_path: str | Path) -> set[str]:
    """Return the names of weights that are not in the file; empty where timm checks them itself."""
    if type(net).__module__ == "timm.models._features":
        return set()
    return net.state_dict().keys() - load_state_dict(str(checkpoint_path)).keys()
