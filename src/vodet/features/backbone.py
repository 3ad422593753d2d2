"""Backbones of timm: uint8 frames to feature maps."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from jaxtyping import UInt8
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.errors import CheckpointError, ConfigError
from vodet.freezing import find_modules, freeze


class TimmBackbone(nn.Module):
    """The levels of a timm model, from uint8 RGB frames normalised with its own mean and std.

    HRNet gives the outputs of its branches (32 to 256 channels for ``hrnet_w32``), not the widened
    maps of its classifier. Frozen modules stay in evaluation mode and get no gradient; where
    nothing that learns comes before them, autograd keeps no graph of them either.

    Args:
        name: Name of the model in timm, with or without the tag of its weights.
        strides: The levels to return; of several levels of one stride, the last.
        pretrained: Load timm's weights, from its cache or the hub.
        checkpoint_path: Load this file of weights of the model instead; nothing in it is executed.
        frozen: Names of modules that do not learn, such as ``("conv1", "bn1", "layer1")``.
        frozen_norm: Freeze all batch norms, as is usual with pretrained weights and few pictures
            in a batch.
        mean: Of the three channels, in the order that the network takes them, in values of 0 to
            255; None means timm's for these weights.
        std: The same.
        channel_order: ``rgb``, or ``bgr`` for a network that takes the channels the other way
            round, as those of Caffe and detectron2 do.
        stride_in_1x1: Move the stride of bottleneck blocks from their 3 x 3 to their first 1 x 1
            convolution, where the ResNets of Caffe and detectron2 (not their ResNeXts) have it.
        model_kwargs: Further arguments of the timm model, such as ``drop_path_rate`` or, where it
            is made for one size of input, ``img_size``.

    Attributes:
        spec: Channels and strides of the levels.
        size_divisor: Sides of the frames must be multiples of this, the coarsest stride of the
            network, whichever levels are chosen.

    Raises:
        ConfigError: If timm has no such model, or it no such level or module.
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
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channel_order: Literal["rgb", "bgr"] = "rgb",
        stride_in_1x1: bool = False,
        **model_kwargs: Any,
    ) -> None:
        super().__init__()
        if channel_order not in ("rgb", "bgr"):
            msg = f"channel_order must be rgb or bgr, found {channel_order!r}."
            raise ConfigError(msg)
        self.channel_order = channel_order
        self.name = name
        if name.startswith("hrnet"):
            model_kwargs = {"feature_location": ""} | model_kwargs
        levels = _levels(name, model_kwargs)
        self.size_divisor = max(level["reduction"] for level in levels)
        model_kwargs["out_indices"] = _indices(name, levels, tuple(strides))
        net = _build(name, pretrained, checkpoint_path, model_kwargs)
        self.net: nn.Module = net
        info = net.feature_info
        self.spec = FeatureSpec(tuple(info.channels()), tuple(info.reduction()))
        for statistic, given in (("mean", mean), ("std", std)):
            values = given or [255 * share for share in net.pretrained_cfg[statistic]]
            self.register_buffer(statistic, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        if stride_in_1x1:
            _move_strides(net, name)
        self.frozen = tuple(frozen)
        self.frozen_norm = frozen_norm
        self.train(self.training)

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the training mode of all but the frozen modules."""
        super().train(mode)
        freeze(find_modules(self.net, self.frozen, self.name))
        if self.frozen_norm:
            freeze([module for module in self.net.modules() if isinstance(module, _BatchNorm)])
        return self

    def forward(self, frames: UInt8[Tensor, "N 3 H W"]) -> FeatureMaps:
        """Encode frames.

        Raises:
            ConfigError: If the model does not take frames of this size.
        """
        height, width = frames.shape[-2:]
        if height % self.size_divisor or width % self.size_divisor:
            msg = (
                f"{self.name} takes frames with sides that are multiples of {self.size_divisor}, "
                f"found {height} x {width}."
            )
            raise ConfigError(msg)
        if self.channel_order == "bgr":
            frames = frames.flip(1)
        try:
            levels = self.net((frames - self.mean) / self.std)
        except AssertionError as error:  # how timm refuses a size
            msg = (
                f"{self.name} does not take frames of {height} x {width}: {error} "
                "Give the size to the model as img_size=[height, width] where it has one."
            )
            raise ConfigError(msg) from error
        if getattr(self.net, "output_fmt", "NCHW") == "NHWC":
            levels = [level.permute(0, 3, 1, 2) for level in levels]
        return FeatureMaps(tuple(levels))


def _levels(name: str, model_kwargs: dict[str, Any]) -> list[dict[str, Any]]:
    """Channels and strides of all levels, from a model without weights in memory."""
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        nearest = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"Did you mean {' or '.join(nearest)}?" if nearest else "See timm.list_models()."
        msg = f"timm {timm.__version__} has no model {name!r}. {hint}"
        raise ConfigError(msg)
    try:
        with torch.device("meta"):
            net: Any = timm.create_model(name, features_only=True, **model_kwargs)
    except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
        msg = f"timm cannot build {name} as a backbone with arguments {model_kwargs}: {error}"
        raise ConfigError(msg) from error
    return [net.feature_info[index] for index in range(len(net.feature_info))]


def _indices(name: str, levels: list[dict[str, Any]], strides: tuple[int, ...]) -> tuple[int, ...]:
    index_of = {level["reduction"]: index for index, level in enumerate(levels)}
    if not strides or not set(strides) <= set(index_of):
        msg = f"{name} has levels of the strides {list(index_of)}, found strides={list(strides)}."
        raise ConfigError(msg)
    return tuple(index_of[stride] for stride in strides)


def _build(
    name: str, pretrained: bool, checkpoint_path: str | Path | None, model_kwargs: dict[str, Any]
) -> Any:
    """Build the model with its weights; what timm refuses now is the fault of the weights."""
    if checkpoint_path is not None:
        model_kwargs = model_kwargs | {"pretrained_cfg_overlay": {"file": str(checkpoint_path)}}
        pretrained = True
    source = checkpoint_path or "the cache or the hub of timm"
    try:
        net = timm.create_model(name, pretrained=pretrained, features_only=True, **model_kwargs)
    except Exception as error:
        msg = f"Cannot load weights of {name} from {source}: {type(error).__name__}: {error}"
        raise CheckpointError(msg) from error
    if checkpoint_path is not None and (missing := _missing_weights(net, checkpoint_path)):
        msg = (
            f"Cannot load weights of {name} from {source}: {len(missing)} weights of the model are "
            f"not in it, such as {min(missing)!r}. Is it a file of another model?"
        )
        raise CheckpointError(msg)
    return net


def _move_strides(net: nn.Module, name: str) -> None:
    """Move strides of bottleneck blocks from the 3 x 3 convolution to the one before it."""
    blocks: list[Any] = [block for block in net.modules() if hasattr(block, "conv3")]
    if not blocks:
        msg = f"stride_in_1x1 is for ResNets of bottleneck blocks; {name} has none."
        raise ConfigError(msg)
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _missing_weights(net: nn.Module, checkpoint_path: str | Path) -> set[str]:
    """Weights not in the file, where timm did not check: for models that are no feature wrapper."""
    if type(net).__module__ == "timm.models._features":
        return set()
    return net.state_dict().keys() - load_state_dict(str(checkpoint_path)).keys()
