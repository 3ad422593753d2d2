"""Messages for errors of Hydra commands that a user can fix, such as unknown config keys."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vodet.cli.faults import causes, is_named, system_message, vodet_message
from vodet.cli.unlisted import unlisted_key_message

Compose = Callable[[list[str]], DictConfig]


def explain(error: Exception, arguments: Sequence[str], compose: Compose) -> str | None:
    """Return the message for an error that the user can fix, or None for any other error.

    Args:
        error: The error that ended the command.
        arguments: The arguments of the command line.
        compose: Composes the config of the command from a list of arguments.
    """
    if message := vodet_message(error):
        return message
    for cause in causes(error):
        if message := _composition_message(cause, arguments, compose):
            return message
    if message := _replaced_keys(arguments, compose):
        return message
    for cause in causes(error):
        if isinstance(cause, OmegaConfBaseException):
            return _with_its_key(cause)
        if isinstance(cause, HydraException) or is_named(cause, "MisconfigurationException"):
            return str(cause)
        if _is_lost_process(cause):
            return "Another process of this run has ended. Its error message says why."
    return system_message(error)


def _composition_message(
    error: BaseException, arguments: Sequence[str], compose: Compose
) -> str | None:
    if isinstance(error, MissingConfigException) and error.options:
        return _unknown_choice(error)
    if isinstance(error, ConfigCompositionException) and (key := _refused_key(error)):
        config = _config_of(arguments, key, compose)
        return unlisted_key_message(key, config, arguments) or _unknown_key(key, config, compose)
    if isinstance(error, ValueError) and "group override must be a string" in str(error):
        return _number_for_group(arguments)
    return None


def _number_for_group(arguments: Sequence[str]) -> str | None:
    """Return a message about an argument like ``window=7``, which sets a group to a number."""
    number = next((text for text in arguments if re.fullmatch(r"[a-z_/]+=-?[\d.]+", text)), None)
    if number is None:
        return None
    group, _, value = number.partition("=")
    return (
        f"{number}: expected the name of an option, since {group} is a config group; found "
        f"{value}. To set a single value of the group, write {group.replace('/', '.')}.KEY={value}."
    )


def _is_lost_process(error: BaseException) -> bool:
    """Return whether communication between processes failed because another process has ended."""
    return isinstance(error, RuntimeError) and bool(
        re.search("by peer|Broken pipe", str(error))  # gloo and NCCL
    )


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
    options = sorted(error.options or [])
    nearest = difflib.get_close_matches(choice, options, n=1, cutoff=0.5)
    return (
        f"There is no {group}={choice}.{_did_you_mean([f'{group}={name}' for name in nearest])} "
        f"Valid choices: {', '.join(options)}."
    )


def _with_its_key(error: OmegaConfBaseException) -> str:
    message = str(error).partition("\n")[0].rpartition(" resolving interpolation: ")[2]
    return f"{error.full_key}: {message}" if error.full_key else message


def _refused_key(error: ConfigCompositionException) -> str | None:
    match = re.match(r"Could not override '([^'@]+)", str(error))
    return match and match.group(1)


def _config_of(arguments: Sequence[str], refused: str, compose: Compose) -> DictConfig:
    """Compose the config with the options that the user chose, or with defaults if that fails.

    Args:
        arguments: The arguments of the command line.
        refused: The key that Hydra did not accept, which is left out.
        compose: Composes the config of the command from a list of arguments.
    """
    chosen = [argument for argument in arguments if re.match(r"\+*[\w/@]+=", argument)]
    try:
        return compose([choice for choice in chosen if choice.split("=")[0] != refused])
    except (HydraException, OmegaConfBaseException):
        return compose([])


def _unknown_key(key: str, config: DictConfig, compose: Compose) -> str:
    """Return a message about a key that the config does not have, with a suggestion.

    The suggestion is the most similar key in the same place, a key with the same name elsewhere in
    the config, or the list of all keys in this place.
    """
    what, separator = ("group", "/") if "/" in key else ("config key", ".")
    parts = key.split(separator)
    known = _keys_below(config, [])
    depth = 0
    while depth < len(parts) and parts[depth] in known:
        known = _keys_below(config, parts[: depth + 1])
        depth += 1
    if depth == len(parts):
        return f"{key} is not a group of this command.{_its_keys(key, config)}"
    nearest = difflib.get_close_matches(parts[depth], known, n=1, cutoff=0.5)
    found = [separator.join([*parts[:depth], name, *parts[depth + 1 :]]) for name in nearest]
    if len(parts) == 1:
        found = [name for name in _dotted_keys(config) if name.endswith(f".{key}")] or found
    place = separator.join(parts[:depth])
    if depth and not found:
        found = _composed(f"{place.replace('.', '/')}={parts[depth]}", compose)
    valid = f" Valid keys{place and f' of {place}'}: {', '.join(known)}."
    listed = valid if known else _empty_place_hint(place, key, config)
    if place and separator == "." and not found and _has_entries(config, place):
        listed += f" To add an entry, write +{place}.{parts[depth]}._target_=CLASS."
    return f"There is no {what} {key!r}.{_did_you_mean(found) or listed}"


def _has_entries(config: DictConfig, place: str) -> bool:
    """Return whether a mapping of a config, such as ``logger``, has entries that build objects."""
    node = OmegaConf.select(config, place)
    if not isinstance(node, DictConfig) or "_target_" in node:
        return False
    entries = [node[key] for key in node]
    return any(isinstance(entry, DictConfig) and "_target_" in entry for entry in entries)


def _empty_place_hint(place: str, key: str, config: DictConfig) -> str:
    """Return a hint about a place in the config that has no keys.

    If the place is an empty mapping, the hint tells how to add the key. Otherwise, it says that the
    place has no keys.
    """
    node = OmegaConf.select(config, place)
    is_to_fill = isinstance(node, DictConfig) and not node
    return f" To add it to {place}, write +{key}=VALUE." if is_to_fill else f" {place} has no keys."


def _replaced_keys(arguments: Sequence[str], compose: Compose) -> str | None:
    """Return a message about a setting like ``data.resize=64``, which replaces a mapping."""
    settings = [argument for argument in arguments if re.match(r"[\w/@.]+=", argument)]
    try:
        config = compose(settings)
        choices = [setting for setting in settings if _is_choice(setting.split("=")[0], config)]
        before = compose(choices)
    except (HydraException, OmegaConfBaseException, ValueError):
        return None
    for key, _, value in (setting.partition("=") for setting in settings):
        now = OmegaConf.select(config, key)
        is_value = now is not None and not isinstance(now, DictConfig)
        if is_value and isinstance(OmegaConf.select(before, key), DictConfig):
            return f"{key}={value} would replace a group of keys with a single value." + (
                _did_you_mean(_as_choice(key, value, compose)) or _its_keys(key, before)
            )
    return None


def _is_choice(key: str, config: DictConfig) -> bool:
    return "/" in key or isinstance(OmegaConf.select(config, key), DictConfig)


def _as_choice(key: str, value: str, compose: Compose) -> list[str]:
    """Return ``["a/b=value"]`` if the value is an option of the config group, otherwise ``[]``.

    Args:
        key: The name of the group with dots, ``a.b``.
        value: The value.
        compose: Composes the config of the command from a list of arguments.
    """
    return _composed(f"{key.replace('.', '/')}={value}", compose) if "." in key else []


def _composed(choice: str, compose: Compose) -> list[str]:
    """Return ``[choice]`` if the config can be composed with it, otherwise ``[]``."""
    try:
        compose([choice])
    except (HydraException, OmegaConfBaseException, ValueError):
        return []
    return [choice]


def _its_keys(key: str, config: DictConfig) -> str:
    names = [f"{key}.{name}" for name in _keys_below(config, key.split("."))]
    return f" Set one of its keys: {', '.join(names)}."


def _keys_below(config: DictConfig, path: list[str]) -> list[str]:
    node = OmegaConf.select(config, ".".join(path)) if path else config
    keys = [str(key) for key in node] if isinstance(node, DictConfig) else []
    return [key for key in keys if not key.startswith("_")]


def _dotted_keys(config: DictConfig) -> Iterator[str]:
    def walk(node: Any, path: str) -> Iterator[str]:
        for key, value in node.items() if isinstance(node, dict) else ():
            yield f"{path}{key}"
            yield from walk(value, f"{path}{key}.")

    yield from walk(OmegaConf.to_container(config), "")


def _did_you_mean(names: Sequence[str]) -> str:
    return f" Did you mean {' or '.join(names)}?" if names else ""
