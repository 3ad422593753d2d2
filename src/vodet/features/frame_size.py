"""Finds out which frame sizes a timm model accepts, by running a copy on the meta device."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import Tensor

from vodet.errors import ConfigError

Size = tuple[int, int]  # height, width

# With one of these options, timm models take frames of any size if their architecture allows it:
# ViTs interpolate their position embeddings, Swin transformers pad their windows.
_ANY_SIZE: tuple[dict[str, bool], ...] = (
    {},
    {"dynamic_img_size": True},
    {"strict_img_size": False},
)


def build_without_weights(name: str, model_kwargs: dict[str, Any]) -> Any:
    """Build a timm model as a backbone on the meta device, where weights take no memory.

    Args:
        name: Name of the model in timm.
        model_kwargs: Arguments of the model.

    Raises:
        ConfigError: If timm has no such model, or cannot build it with these arguments.
    """
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        nearest = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"Did you mean {' or '.join(nearest)}?" if nearest else "See timm.list_models()."
        msg = f"timm {timm.__version__} has no model {name!r}. {hint}"
        raise ConfigError(msg)
    try:
        with torch.device("meta"):
            return timm.create_model(name, features_only=True, **model_kwargs).eval()
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        msg = f"timm cannot build {name} with model.backbone arguments {model_kwargs}: {error}"
        raise ConfigError(msg) from error


def find_frame_size(
    name: str, model_kwargs: dict[str, Any], img_size: Size | None, divisor: int
) -> tuple[dict[str, Any], Size | None]:
    """Find arguments with which a timm model accepts frames of any size, or else of ``img_size``.

    Args:
        name: Name of the model in timm.
        model_kwargs: Arguments of the model, without ``img_size``.
        img_size: ``(height, width)`` of the largest frames; None if the user does not set it.
        divisor: The coarsest stride of the model.

    Returns:
        The arguments, and the ``(height, width)`` that all frames must have; None means any size.

    Raises:
        ConfigError: If the model accepts only a fixed size other than ``img_size``; or if
            ``img_size`` is set, but the model accepts frames of any size and has no such argument.
    """
    sized = model_kwargs if img_size is None else model_kwargs | {"img_size": img_size}
    for options in _ANY_SIZE:
        if _takes_other_sizes(name, sized | options, divisor):
            return sized | options, None
    if img_size is not None and _fault(name, sized, img_size) is None:
        return sized, img_size
    if _takes_other_sizes(name, model_kwargs, divisor):
        msg = f"{name} accepts frames of any size: leave out model.backbone.img_size={img_size}."
        raise ConfigError(msg)
    if img_size is not None and _fault(name, model_kwargs, img_size) is None:
        return model_kwargs, img_size
    raise ConfigError(_why_not(name, model_kwargs, img_size, divisor))


def to_channels_first(net: Any, levels: list[Tensor]) -> list[Tensor]:
    """Return the maps of a timm model as ``[N, C, H, W]``; some models return channels last."""
    is_last = getattr(net, "output_fmt", "NCHW") == "NHWC"
    return [level.permute(0, 3, 1, 2) for level in levels] if is_last else list(levels)


def _fault(name: str, model_kwargs: dict[str, Any], size: Size) -> str | None:
    """Return why a model cannot compute maps of frames of this size, or None if it can."""
    try:
        net = build_without_weights(name, model_kwargs)
        with torch.no_grad():
            maps = to_channels_first(net, net(torch.empty(1, 3, *size, device="meta")))
    except Exception as error:  # models refuse sizes with different errors
        # Errors about operations that the meta device lacks say nothing about the size.
        is_untried = isinstance(error, NotImplementedError) or "meta tensor" in str(error)
        return None if is_untried else str(error)
    info = net.feature_info
    expected = [
        (channels, *(side // stride for side in size))
        for channels, stride in zip(info.channels(), info.reduction(), strict=True)
    ]
    found = [tuple(level.shape[1:]) for level in maps]
    return None if found == expected else f"expected maps of {expected}, found {found}"


def _takes_other_sizes(name: str, model_kwargs: dict[str, Any], divisor: int) -> bool:
    """Return whether the model accepts frames of another size than the size it is built for."""
    height, width = model_kwargs.get("img_size") or _own_size(name)
    other = (height // divisor + 1) * divisor, (width // divisor + 3) * divisor
    return _fault(name, model_kwargs, other) is None


def _own_size(name: str) -> Size:
    config: Any = timm.get_pretrained_cfg(name)
    _, height, width = config.input_size
    return height, width


def _why_not(name: str, model_kwargs: dict[str, Any], img_size: Size | None, divisor: int) -> str:
    height, width = own = _own_size(name)
    wide = (-(-160 // divisor) * divisor, -(-288 // divisor) * divisor)
    found = "none" if img_size is None else f"[{img_size[0]},{img_size[1]}]"
    if _fault(name, model_kwargs | {"img_size": wide}, wide) is None:
        needed = f"[height,width], multiples of {divisor}, such as [{wide[0]},{wide[1]}]"
    elif (reason := _fault(name, model_kwargs, own)) is None:
        needed = f"[{height},{width}], the only possible size"
    else:
        return (
            f"{name} cannot be a backbone: for frames of {height} x {width} (height x width), "
            f"{reason}. Choose another model.backbone.name."
        )
    return (
        f"{name} accepts only one frame size: expected model.backbone.img_size={needed}; found "
        f"{found}. No frame may be larger than this size (data.resize); smaller frames are padded."
    )
