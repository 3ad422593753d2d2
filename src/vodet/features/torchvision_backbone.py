"""Backbones from torchvision, which return the maps of any layers of a classification model."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.feature_extraction import create_feature_extractor

from vodet.encodings import FeatureSpec
from vodet.errors import CheckpointError, ConfigError
from vodet.features.library_backbone import LibraryBackbone
from vodet.pretrained import allowed_source

# The size of the frame that shows the strides: odd multiples of 32, so that a layer that rounds
# sizes or does not pad is noticed.
_PROBE = (352, 480)


class TorchvisionBackbone(LibraryBackbone):
    """Normalises uint8 RGB frames and computes their feature maps with a torchvision model.

    Unlike `TimmBackbone`, it can return several levels of the same stride, such as the two levels
    of stride 32 that torchvision's Faster R-CNN uses from MobileNetV3.

    Args:
        name: Name of a classification model in ``torchvision.models``.
        nodes: Names of the layers whose maps are returned, as in torchvision's
            ``create_feature_extractor``, such as ``("layer3", "layer4")``. The levels are in the
            order in which the model computes them.
        pretrained: Whether to load torchvision's default weights for ImageNet, from its cache or
            its server; no code in the file is executed.
        frozen: Names of modules that are not trained, such as ``("conv1", "bn1", "layer1")``.
        frozen_norm: Whether to freeze all batch norms.
        norm_eps: Constant that is added to the variance in batch norms; None means torchvision's
            value.
        mean: Mean of the three channels, as in `TimmBackbone`; None means torchvision's value for
            its default weights.
        std: Standard deviation of the three channels, like ``mean``.
        channel_order: ``rgb`` or ``bgr``, as in `TimmBackbone`.
        padding: ``black`` or ``mean``, as in `TimmBackbone`.

    Attributes:
        spec: Channels and strides of the levels.
        size_divisor: The sides of the frames must be multiples of this number: the stride of the
            coarsest level, or 1 if ``padding`` is ``mean``, because the backbone then pads the
            frames itself.

    Raises:
        ConfigError: If torchvision has no such model, the model has no such layer or module or does
            not accept frames of any size, a layer does not return feature maps, ``channel_order``
            or ``padding`` is unknown, or the strides decrease from one layer to the next.
        CheckpointError: If the weights cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        nodes: Sequence[str],
        *,
        pretrained: bool = False,
        frozen: Sequence[str] = (),
        frozen_norm: bool = False,
        norm_eps: float | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channel_order: Literal["rgb", "bgr"] = "rgb",
        padding: Literal["black", "mean"] = "black",
    ) -> None:
        known = list_models(module=torchvision.models)
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=3)
            hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
            msg = (
                f"torchvision {torchvision.__version__} has no classification model {name!r}.{hint}"
                " torchvision.models.list_models() lists its models."
            )
            raise ConfigError(msg)
        weights = get_model_weights(name).DEFAULT
        pretrained, _ = allowed_source(pretrained, None)
        net = _extractor(name, _model(name, weights if pretrained else None), list(nodes))
        spec = _spec(name, net)
        preprocessing = weights.transforms()
        super().__init__(
            name,
            net,
            spec,
            spec.strides[-1],
            mean=mean or [255 * share for share in preprocessing.mean],
            std=std or [255 * share for share in preprocessing.std],
            frozen=frozen,
            frozen_norm=frozen_norm,
            norm_eps=norm_eps,
            channel_order=channel_order,
            padding=padding,
        )

    def levels_of(self, pixels: Float[Tensor, "N 3 H W"]) -> list[Tensor]:
        """Return the maps ``[N, C, h, w]`` of normalised and padded frames, one per level."""
        return list(self.net(pixels).values())


def _model(name: str, weights: Any) -> nn.Module:
    """Build a classification model and load its weights, unless they are None."""
    try:
        if weights is not None:  # fills the cache; refuses a file in it that would run code
            weights.get_state_dict(check_hash=True, weights_only=True)
        model: Any = get_model(name, weights=weights)
    except Exception as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]  # the rest is advice of torch
        msg = (
            f"Cannot load weights of {name} from torchvision's cache ({torch.hub.get_dir()}) or "
            f"server: {type(error).__name__}: {reason}"
        )
        raise CheckpointError(msg) from error
    if hasattr(model, "transform_input"):
        # Torchvision sets it only with weights, but a checkpoint of the detector needs it as well.
        model.transform_input = True
    return cast("nn.Module", model)


def _extractor(name: str, model: nn.Module, nodes: list[str]) -> nn.Module:
    """Return the part of a model that computes the maps of some layers."""
    if not nodes:
        msg = f"{name} needs at least one layer to return maps of, found model.backbone.nodes=[]."
        raise ConfigError(msg)
    try:
        extractor: nn.Module = create_feature_extractor(model, nodes)
    except Exception as error:  # models that cannot be traced raise different errors
        reason = str(error).partition(" Hint:")[0]
        children = ", ".join(child for child, _ in model.named_children())
        msg = (
            f"{name} cannot return the maps of model.backbone.nodes={nodes}: {reason} The model's "
            f"top-level layers are {children}."
        )
        raise ConfigError(msg) from error
    return extractor


def _spec(name: str, net: nn.Module) -> FeatureSpec:
    """Return channels and strides of the maps, by running a copy on the meta device."""
    probe = copy.deepcopy(net).to("meta").eval()
    height, width = _PROBE
    try:
        # Not probe(...), which prints a traceback if the model refuses the size.
        maps = probe.forward(torch.empty(1, 3, height, width, device="meta"))
    except Exception as error:  # models refuse sizes with different errors
        msg = (
            f"{name} cannot be a backbone: for a frame of {height} x {width} (height x width), "
            f"{error} Choose another model.backbone.name."
        )
        raise ConfigError(msg) from error
    shapes = {node: tuple(getattr(level, "shape", ())) for node, level in maps.items()}
    strides = tuple(_stride(name, node, shape) for node, shape in shapes.items())
    return FeatureSpec(tuple(shape[1] for shape in shapes.values()), strides)


def _stride(name: str, node: str, shape: tuple[int, ...]) -> int:
    height, width = _PROBE
    stride = height // shape[2] if len(shape) == 4 else 0
    if not stride or (stride * shape[2], stride * shape[3]) != _PROBE:
        msg = (
            f"The layer {node!r} of {name} returns no feature map: expected [1, channels, {height} "
            f"/ stride, {width} / stride] for a frame of {height} x {width} (height x width), "
            f"found {list(shape)}. Choose other layers in model.backbone.nodes."
        )
        raise ConfigError(msg)
    return stride
