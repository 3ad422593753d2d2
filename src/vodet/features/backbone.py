"""Backbones from the timm library, which compute feature maps of uint8 frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
from jaxtyping import Float
from timm.models import load_state_dict
from torch import Tensor, nn

from vodet.encodings import FeatureSpec
from vodet.errors import CheckpointError, ConfigError
from vodet.features.frame_size import build_without_weights, find_frame_size, to_channels_first
from vodet.features.library_backbone import LibraryBackbone
from vodet.pretrained import allowed_source


class TimmBackbone(LibraryBackbone):
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
        if name.startswith("hrnet"):
            model_kwargs = {"feature_location": ""} | model_kwargs
        info = build_without_weights(name, model_kwargs).feature_info
        levels = [info[index] for index in range(len(info))]
        indices = _indices(name, levels, tuple(strides))
        spec = FeatureSpec(tuple(levels[i]["num_chs"] for i in indices), tuple(strides))
        model_kwargs["out_indices"] = indices
        divisor = max(level["reduction"] for level in levels)
        size = None if img_size is None else (img_size[0], img_size[1])
        model_kwargs, frame_size = find_frame_size(name, model_kwargs, size, divisor)
        net = _build(name, *allowed_source(pretrained, checkpoint_path), model_kwargs)
        if stride_in_1x1:
            _move_strides(net, name)
        super().__init__(
            name,
            net,
            spec,
            divisor,
            mean=mean or [255 * share for share in net.pretrained_cfg["mean"]],
            std=std or [255 * share for share in net.pretrained_cfg["std"]],
            frozen=frozen,
            frozen_norm=frozen_norm,
            norm_eps=norm_eps,
            channel_order=channel_order,
            padding=padding,
            frame_size=frame_size,
        )

    def levels_of(self, pixels: Float[Tensor, "N 3 H W"]) -> list[Tensor]:
        """Return the maps ``[N, C, h, w]`` of normalised and padded frames, one per level."""
        return to_channels_first(self.net, self.net(pixels))


def _indices(name: str, levels: list[dict[str, Any]], strides: tuple[int, ...]) -> tuple[int, ...]:
    index_of = {level["reduction"]: index for index, level in enumerate(levels)}
    is_ascending = list(strides) == sorted(set(strides))
    if not strides or not is_ascending or not set(strides) <= set(index_of):
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


def _missing_weights(net: nn.Module, checkpoint_path: str | Path) -> set[str]:
    """Return the names of weights that are not in the file; empty where timm checks them itself."""
    if type(net).__module__ == "timm.models._features":
        return set()
    return net.state_dict().keys() - load_state_dict(str(checkpoint_path)).keys()
