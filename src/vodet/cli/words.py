"""Prepares the arguments of a command line for Hydra.

Hydra parses values with its own grammar: ``=``, ``#`` and non-ASCII letters need quotes, and
``2024`` is a number. This module adds the quotes to values that have only one possible meaning.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from functools import cache

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from vodet.errors import ConfigError

# Last parts of keys whose values are names or paths: every value except null is text.
TEXTS = {
    *("annotations", "checkpoint_path", "ckpt", "data_dir", "dirpath", "filename", "images"),
    *("init_from", "name", "output", "predictions", "resume", "root", "run_dir", "runs_dir"),
    *("save_dir", "source"),
}

_QUOTED = re.compile(r"""(["'])((?!\1|\\).|\\.)*\1""", re.DOTALL)
_FLAT_LIST = re.compile(r"\[([^][{}()'\"]*)\]")
_STRUCTURE = "[]{}()'\","


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command line, with quotes where Hydra needs them.

    Settings (``KEY=VALUE``) come before options (``--OPTION``) in the result.

    Raises:
        ConfigError: If an argument is neither a setting nor an option, or cannot be parsed.
    """
    known, unknown = get_args_parser().parse_known_intermixed_args(arguments)
    if unknown:
        setting = unknown[0].lstrip("-")
        hint = f" Set values without dashes: {setting}." if "=" in setting else ""
        msg = f"There is no option {unknown[0]}.{hint} See --help."
        raise ConfigError(msg)
    options = list(arguments)
    for word in known.overrides:
        options.remove(word)
    return [*(_readable(word, known.multirun) for word in known.overrides), *options]


def _readable(word: str, is_sweep: bool) -> str:
    key, equals, value = word.partition("=")
    if not key.startswith("~"):
        _check(key, equals, value)
    if not value:
        return word
    if key.rpartition(".")[2].lstrip("+") in TEXTS:
        return f"{key}={_texts(word, value) if is_sweep else _text(value)}"
    setting = _parsed(word)
    if setting is None:
        return f"{key}={_mended(key, value)}"
    if setting.is_sweep_override() and not is_sweep:
        msg = (
            f"{word} has several values. Write {shlex.quote(f'{key}=[{value}]')} for a list, or "
            "add -m to run once for each value."
        )
        raise ConfigError(msg)
    return word


def _check(key: str, equals: str, value: str) -> None:
    if not equals or not key:
        msg = f"Expected KEY=VALUE without spaces around the =, found {key + equals + value!r}."
        raise ConfigError(msg)
    if not value:
        empty = key + '=""'
        msg = (
            f"No value is given for {key}: found nothing after {key}=. If you used a shell "
            f"variable, it is not set. For an empty string, write {shlex.quote(empty)}."
        )
        raise ConfigError(msg)
    if _parsed(f"{key}=0") is None:
        msg = (
            f"There is no config key {key!r}: keys consist of letters a-z, digits, - and _, with "
            "dots or slashes as separators."
        )
        raise ConfigError(msg)


def _text(value: str) -> str:
    """Quote a value unless it is null or already quoted."""
    if value == "null" or _QUOTED.fullmatch(value):
        return value
    if value.startswith("~/"):  # some shells do not expand ~ after a =
        value = os.path.expanduser(value)  # noqa: PTH111 # a Path would drop a trailing slash
    return QuotedString(value, Quote.double).with_quotes()


def _texts(word: str, value: str) -> str:
    """Quote each value of a sweep, unless the user wrote the sweep in Hydra's grammar."""
    if any(character in value for character in "\"'(") and _parsed(word) is not None:
        return value
    return ",".join(_text(part.strip()) for part in value.split(","))


def _mended(key: str, value: str) -> str:
    """Quote a value that Hydra cannot parse, or the entries of a list that it cannot parse."""
    if entries := _FLAT_LIST.fullmatch(value):
        parts = (part.strip() for part in entries[1].split(","))
        return f"[{','.join(part if _parsed(f'x={part}') else _text(part) for part in parts)}]"
    if not any(character in value for character in _STRUCTURE):
        return _text(value)
    bad = [c for c in value if c not in _STRUCTURE and _parsed(f"x=a{c}a") is None]
    reason = f"{bad[0]!r} needs quotes" if bad else "its brackets or quotes do not match"
    msg = (
        f"Cannot read {key}={value}: {reason}. To use the value as a string, put it in quotes: "
        f"{shlex.quote(f'{key}={_text(value)}')}."
    )
    raise ConfigError(msg)


def _parsed(word: str) -> Override | None:
    """Return the parsed setting, or None if Hydra cannot parse it."""
    try:
        return _parser().parse_override(word)
    except HydraException:
        return None


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()
