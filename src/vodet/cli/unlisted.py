"""Advice on keys that conf/ does not list, but that the command line can add with a ``+``."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf


def unlisted_key_message(key: str, config: DictConfig, arguments: Sequence[str]) -> str | None:
    """Return a message that tells how to add a key to the config, or None if it cannot be added.

    A key can be added if the class that the config names at this place has such a parameter.

    Args:
        key: The key that the user set, such as ``trainer.val_check_interval``.
        config: The config without the key.
        arguments: The arguments of the command line.
    """
    place, _, name = key.rpartition(".")
    node = OmegaConf.select(config, place) if place else None
    settings = OmegaConf.to_container(node) if isinstance(node, DictConfig) else {}
    if not isinstance(settings, dict) or not _takes(settings, name):
        return None
    setting = next((text for text in arguments if text.startswith(f"{key}=")), f"{key}=VALUE")
    return (
        f"conf/ does not list {key}, but {settings['_target_']} accepts a parameter {name}. To set "
        f"it, write {shlex.quote(f'+{setting}')}."
    )


def _takes(settings: Mapping[Any, Any], name: str) -> bool:
    own = _parameters(settings)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
        passed_on = (value for value in settings.values() if isinstance(value, dict))
        return name in own or any(name in _parameters(value) for value in passed_on)
    return name in own


def _parameters(settings: Mapping[Any, Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(get_object(str(settings["_target_"]))).parameters
    except Exception:  # _target_ is not a class, or cannot be imported
        return {}
