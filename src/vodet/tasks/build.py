"""Builds a detector from a config and the class names of a data set or checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from vodet.detector import VideoDetector
from vodet.errors import ConfigError


def build_detector(model: DictConfig, class_names: Sequence[str]) -> VideoDetector:
    """Build the detector that a config describes.

    The class names may come from an untrusted file. They are passed directly to the detector, not
    through Hydra, which would resolve interpolations in them.

    Args:
        model: Config of the detector, with a ``_target_``.
        class_names: Names of the classes, in the order of the labels.

    Raises:
        ConfigError: If a class in the config lacks an argument that the config passes to it.
        InstantiationException: If the detector cannot be built for another reason.
    """
    _check_arguments(model, "model")
    build = instantiate(model, _partial_=True)
    try:
        detector: VideoDetector = build(class_names=tuple(class_names))
    except HydraException:
        raise
    except Exception as error:
        msg = f"Cannot build {model.get('_target_')} from its config: {error!r}"
        raise InstantiationException(msg) from error
    if isinstance(detector, VideoDetector):
        config: Any = OmegaConf.to_container(model, resolve=True)
        detector.config = config
    return detector


def _accepts(target: str) -> list[str] | None:
    """Return the names of a callable's arguments; None if it takes any, or they are not known."""
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except Exception:  # not importable, which Hydra reports, or a signature that Python cannot read
        return None
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return None if takes_any else list(parameters)


def _check_arguments(node: Any, key: str) -> None:
    """Check that all classes in a config have the arguments that the config passes to them.

    Hydra calls a ``_partial_`` class only later, and the error would then not name the config key.
    """
    if isinstance(node, ListConfig):
        for number, entry in enumerate(node):
            _check_arguments(entry, f"{key}[{number}]")
    if not isinstance(node, DictConfig):
        return
    target = node.get("_target_")
    known = _accepts(target) if isinstance(target, str) else None
    if known is not None:
        names = [str(name) for name in node if not str(name).startswith("_")]
        if unknown := [name for name in names if name not in known]:
            msg = (
                f"{key}.{unknown[0]}: {target} has no argument {unknown[0]!r}; its arguments are "
                f"{', '.join(known)}. If an experiment sets it for another class, remove it with "
                f"'~{key}.{unknown[0]}'."
            )
            raise ConfigError(msg)
    for name in node:
        _check_arguments(node.get(name), f"{key}.{name!s}")
