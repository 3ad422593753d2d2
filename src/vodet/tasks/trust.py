"""Checks which classes the config of a checkpoint would build, since anyone may have written it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from vodet.errors import CheckpointError
from vodet.tasks.checkpoint_file import FilePath, shown

# Modules whose classes are parts of a detector. Building a part has no side effect except loading
# pretrained weights, which is switched off here. Other classes of vodet read and write files.
_PARTS = (
    "vodet.detector",
    "vodet.features",
    "vodet.fusion",
    "vodet.heads",
    "vodet.structures",
    "vodet.data.frames.resize",
)
# Real configs are far below both limits. Larger configs are meant to fill the memory, with layers
# that have no weights in the file, or with lists that contain each other.
_MOST_VALUES, _LARGEST_NUMBER = 100_000, 1_000_000


def trusted_config(config: object, trusted: Sequence[str], path: FilePath) -> DictConfig:
    """Return the config of a detector, after checking that building it is safe.

    The config may name only classes that are parts of a vodet detector, and classes and functions
    of trusted packages.

    Args:
        config: The config of the detector, from a checkpoint.
        trusted: Names of the trusted packages, in addition to vodet.
        path: The checkpoint, for error messages.

    Raises:
        CheckpointError: If the config does not describe a detector, names another class or
            function, or has interpolations, which could assemble the name of any class
            (vodet-train resolves all interpolations).
    """
    names = (trusted,) if isinstance(trusted, str) else tuple(trusted)
    if not isinstance(config, dict) or "_target_" not in config:
        msg = (
            f"The checkpoint {path} has no config of a detector: expected a mapping with _target_ "
            f"in config.model, found {shown(config)}. Use a checkpoint written by vodet-train."
        )
        raise CheckpointError(msg)
    try:
        for count, (key, value) in enumerate(_values(config, "model")):
            if count == _MOST_VALUES:
                msg = (
                    f"has more than {_MOST_VALUES:,} values, but a detector needs only a few "
                    "hundred. Get the file again from its source."
                )
                raise CheckpointError(msg)
            _check(key, value, names)
        return OmegaConf.create(config)
    except CheckpointError as error:
        msg = f"The checkpoint {path} was not loaded: its config {error}"
        raise CheckpointError(msg) from error
    except Exception as error:  # such as a config that contains itself
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        msg = (
            f"The checkpoint {path} was not loaded: its config cannot be read ({reason}). "
            "Use a checkpoint written by vodet-train."
        )
        raise CheckpointError(msg) from error


def _values(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield every key and every value of a config, each with the dotted path where it occurs."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield key, name
            yield from _values(value, f"{key}.{name}")
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _values(value, key)
        yield key, None
    else:
        yield key, node


def _check(key: str, value: Any, trusted: Sequence[str]) -> None:
    if not isinstance(value, str | int | float | None):
        msg = f"has a {type(value).__name__} at {shown(key)}, expected a number, text or null."
        raise CheckpointError(msg)
    if isinstance(value, str) and "${" in value:
        msg = (
            f"has the interpolation {shown(value)} at {shown(key)}, which could assemble the name "
            "of any class. Use a checkpoint written by vodet-train, which has no interpolations."
        )
        raise CheckpointError(msg)
    if isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
        msg = f"has {shown(value)} at {shown(key)}, expected at most {_LARGEST_NUMBER}."
        raise CheckpointError(msg)
    if key.endswith("._target_"):
        _require_trusted(str(value), trusted)


def _require_trusted(target: str, trusted: Sequence[str]) -> None:
    if _root(target) in ("vodet", *trusted):
        try:
            found = get_object(target)
        except Exception as error:
            msg = f"names {shown(target)}, which cannot be imported here: {error}"
            raise CheckpointError(msg) from error
        if _is_trusted(found, trusted):
            return
    msg = f"names {shown(target)}, which is not part of a vodet detector."
    if _root(target) == "vodet":
        msg += (
            " vodet-train names only parts of detectors, so do not use this file unless you trust "
            "its source."
        )
    else:
        msg += (
            f" If you trust the package {_root(target)}, allow it with the argument "
            f"trusted=[{_root(target)!r}], or with trusted=[{_root(target)}] on the command line."
        )
    raise CheckpointError(msg)


def _is_trusted(found: object, trusted: Sequence[str]) -> bool:
    """Return whether an object is from a trusted package, or is a class that is part of a detector.

    The module that defines the object decides, because its name is not enough:
    ``vodet.files.os.system`` begins with ``vodet``, but is Python's function that runs commands.
    """
    home = str(getattr(found, "__module__", ""))
    is_part = any(home == part or home.startswith(f"{part}.") for part in _PARTS)
    return _root(home) in trusted or (is_part and isinstance(found, type))


def _root(path: str) -> str:
    return path.partition(".")[0]
