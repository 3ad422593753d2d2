"""Reads text files with one object per line, and reports malformed lines by number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vodet.data.formats.records import Number
from vodet.errors import DataError
from vodet.files import read_file

SHOWN_FAULTS = 10
T = TypeVar("T")


class Row(NamedTuple):
    """A line of a text file: its line number, from 1, and its values by column name."""

    line: int
    values: Mapping[str, Any]


def read_rows(
    path: Path, columns: Mapping[str, Callable[[str], Any]], separator: str | None = ","
) -> list[Row]:
    """Read a text file with one object per line; empty lines are skipped.

    Args:
        path: The file.
        columns: Parser of each column by column name, in the order of the file. A parser takes the
            text of a value and raises ValueError if the text is malformed.
        separator: Separator of the values; None for whitespace.

    Raises:
        DataError: If the file is missing or has malformed lines. The message shows the first ten
            malformed lines.
    """
    return [
        Row(line, values)
        for line, values in parse_lines(path, lambda text: _parse(text, columns, separator))
    ]


def parse_lines(path: Path, parse: Callable[[str], T]) -> list[tuple[int, T]]:
    """Parse a text file line by line; empty lines are skipped.

    Args:
        path: The file.
        parse: Parses a line, and raises ValueError if the line is malformed.

    Returns:
        Each line number, from 1, with the result.

    Raises:
        DataError: If the file is missing or has malformed lines. The message shows the first ten
            malformed lines.
    """
    parsed, faults = [], []
    for line, text in enumerate(_read_lines(path), start=1):
        if text.strip():
            try:
                parsed.append((line, parse(text)))
            except ValueError as error:
                faults.append(f"line {line}: {error}")
    raise_faults(path, faults)
    return parsed


def raise_faults(path: Path, faults: list[str], advice: str = "") -> None:
    """Raise one error for all faults of a file, if there are any.

    Args:
        path: The file.
        faults: Descriptions of the faults.
        advice: What to do, as a sentence that ends the message.

    Raises:
        DataError: If there are faults. The message shows the first ten and counts the others.
    """
    if faults:
        shown = "".join(f"\n  {fault}" for fault in faults[:SHOWN_FAULTS])
        more = len(faults) - SHOWN_FAULTS
        msg = f"{path}: {shown.strip()}" if len(faults) == 1 else f"{path}: {shown}"
        msg += f"\n  and {more} more." if more > 0 else ""
        raise DataError(f"{msg}\n{advice}" if advice else msg)


def number(text: str) -> Number:
    """Parse a finite number, and return an int if it is whole.

    Raises:
        ValueError: If the text is not a finite number.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        msg = f"expected a finite number, found {text.strip()!r}"
        raise ValueError(msg)
    return int(value) if value.is_integer() else value


def integer(text: str) -> int:
    """Parse an integer.

    Raises:
        ValueError: If the text is not an integer.
    """
    try:
        return int(text)
    except ValueError:
        msg = f"expected an integer, found {text.strip()!r}"
        raise ValueError(msg) from None


def one_of(*choices: int) -> Callable[[str], int]:
    """Return a parser that accepts only the given integers."""

    def read(text: str) -> int:
        value = integer(text)
        if value not in choices:
            msg = f"expected one of {', '.join(map(str, choices))}, found {value}"
            raise ValueError(msg)
        return value

    return read


def xyxy(values: Mapping[str, Any]) -> tuple[Number, Number, Number, Number]:
    """Return the corners of a box from the columns left, top, width and height."""
    left, top = values["left"], values["top"]
    return left, top, left + values["width"], top + values["height"]


def _read_lines(path: Path) -> list[str]:
    try:
        return read_file(path).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        msg = f"There is no text file {path}. Is the data set complete?"
    except (OSError, UnicodeDecodeError) as error:
        msg = f"Cannot read the text file {path}: {error}."
    raise DataError(msg)


def _parse(
    text: str, columns: Mapping[str, Callable[[str], Any]], separator: str | None
) -> dict[str, Any]:
    parts = text.split(separator)
    if len(parts) != len(columns):
        msg = f"expected {len(columns)} values ({', '.join(columns)}), found {len(parts)}: {text!r}"
        raise ValueError(msg)
    values = {}
    for (name, kind), part in zip(columns.items(), parts, strict=True):
        try:
            values[name] = kind(part)
        except ValueError as error:
            msg = f"{name}: {error}"
            raise ValueError(msg) from None
    return values
