"""What the config of a checkpoint may build: its author is not its reader."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vodet.errors import CheckpointError


def trusted_config(config: Any, trusted: Sequence[str], path: str | os.PathLike[str]) -> DictConfig:
    """Return a config, checked to name nothing but classes of vodet and of trusted packages.

    Args:
        config: Of a checkpoint, in plain values.
        trusted: Names of further packages of which classes and functions may be named.
        path: The checkpoint, for the text of errors.

    Raises:
        CheckpointError: If it names anything else, or has interpolations, which could make up
            what is not there to see; those of a training are resolved.
    """
    try:
        # Back from OmegaConf there are dicts, lists and single values alone, whatever came in.
        result = OmegaConf.create(config if isinstance(config, dict) else {})
        plain = OmegaConf.to_container(result)
    except OmegaConfBaseException as error:
        msg = f"The checkpoint {path} holds a config that is none: {error}"
        raise CheckpointError(msg) from error
    for key, value in _values(plain):
        if isinstance(value, str) and "${" in value:
            msg = f"The checkpoint {path} was not loaded: {key}={value} could make up a class."
            raise CheckpointError(msg)
        if key == "_target_":
            _require_trusted(str(value), trusted, path)
    return result


def _values(node: Any, key: object = "") -> Iterator[tuple[object, Any]]:
    """Yield every single value with its key."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _values(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _values(value, key)
    else:
        yield key, node


def _require_trusted(target: str, trusted: Sequence[str], path: Any) -> None:
    if _root(target) in ("vodet", *trusted):
        try:
            found = get_object(target)
        except (ImportError, ValueError) as error:
            msg = f"The checkpoint {path} names {target!r}, which is not installed here: {error}"
            raise CheckpointError(msg) from error
        if _is_trusted(found, trusted):
            return
    allowed = ", ".join(["vodet", *trusted])
    msg = (
        f"The checkpoint {path} names {target!r}, which is not a class of {allowed}. If you trust "
        f"it, say so: vodet.load(path, trusted=[{_root(target)!r}]), or trusted=[{_root(target)}] "
        "on the command line."
    )
    raise CheckpointError(msg)


def _is_trusted(found: object, trusted: Sequence[str]) -> bool:
    """Decide by where it is defined: ``vodet.module.os.system`` reaches what a module imports.

    Of vodet classes alone, since making one does nothing else, as some of its functions do.
    """
    home = _root(str(getattr(found, "__module__", "")))
    return home in trusted or (home == "vodet" and isinstance(found, type))


def _root(path: str) -> str:
    return path.partition(".")[0]
