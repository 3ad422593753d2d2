"""Reads JSON files in any Unicode encoding, with errors that say what is wrong and where.

msgspec decodes a valid file directly into Python objects of a given type. If that fails, Python's
own JSON parser reads the file again to find the reason. Python's parser accepts NaN and Infinity,
so that later checks can name the entry that contains them.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from pathlib import Path
from types import GenericAlias
from typing import Any, TypeVar

import msgspec

from vodet.errors import DataError
from vodet.files import read_file

MAX_UNPACKED = 2**31  # bytes of an unpacked .gz file: enough for about ten million boxes

_GZIP_START = b"\x1f\x8b"

_TABLES = (b'"images"', b'"annotations"', b'"categories"', b'"videos"')

# The errors of msgspec for a file that it cannot decode; `parse_json` then finds the reason.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_ESCAPES = re.compile(  # surrogate pairs, unpaired surrogates, all other escapes
    rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.", re.DOTALL
)
T = TypeVar("T")


def read_json(path: Path, expected: str, max_unpacked: int = MAX_UNPACKED) -> bytes:
    """Read a JSON file, which may be compressed with gzip, and return its text in UTF-8.

    Args:
        path: The file.
        expected: What the file should be, for error messages, such as ``an ST-COCO file``.
        max_unpacked: Maximum size in bytes of a compressed file after decompression.

    Raises:
        DataError: If the file does not exist, cannot be read, is too large after decompression, or
            is not valid Unicode text.
    """
    try:
        data = read_file(path)
        if data.startswith(_GZIP_START):
            data = _unpack(data, max_unpacked)
    except FileNotFoundError as error:
        folder = "exists" if path.parent.is_dir() else "does not exist either"
        msg = (
            f"Looked for {expected} at {path.absolute()}, found none; its folder {folder}. Correct "
            "the path."
        )
        raise DataError(msg) from error
    except (OSError, EOFError, zlib.error) as error:
        msg = (
            f"Cannot read {path}: {error}. Expected {expected}. Check the path and the "
            "permissions, and whether the file is complete."
        )
        raise DataError(msg) from error
    if data.startswith(codecs.BOM_UTF8):
        return data.replace(codecs.BOM_UTF8, b"   ", 1)  # spaces, so that byte positions stay
    encoding = json.detect_encoding(data)
    return data if encoding == "utf-8" else _text(data, encoding, path).encode()


def _unpack(data: bytes, limit: int) -> bytes:
    with gzip.open(io.BytesIO(data)) as file:
        unpacked = file.read(limit + 1)
    if len(unpacked) > limit:
        msg = (
            f"it unpacks to more than {limit:,} bytes, the limit for compressed files. Decompress "
            "it first: an uncompressed file may have any size"
        )
        raise OSError(msg)
    return unpacked


def decode_json(data: bytes, kind: type[T] | GenericAlias, source: Path) -> T:
    """Decode the text of a JSON file into an object of a type.

    Args:
        data: The text in UTF-8.
        kind: The type of the object, such as a ``msgspec.Struct``.
        source: The file, for error messages.

    Raises:
        DataError: If the text is not valid JSON.
        msgspec.ValidationError: If the JSON does not fit the type.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except UNDECODABLE:
        return msgspec.convert(parse_json(data, source), kind)


def check_tables(data: bytes, source: Path) -> None:
    """Check that no table of a COCO file, such as ``images``, occurs twice.

    A JSON decoder keeps only the last value of a repeated key, so data would be lost.

    Args:
        data: The text in UTF-8.
        source: The file, for error messages.

    Raises:
        DataError: If ``images``, ``annotations``, ``categories`` or ``videos`` is repeated.
    """
    if any(data.count(name) > 1 for name in _TABLES):  # mostly once, and counting is fast
        parse_json(data, source)


def parse_json(data: bytes, source: Path) -> Any:
    """Parse the text of a JSON file into dicts, lists and values, without expecting a type.

    NaN and Infinity are accepted as numbers. A whole number such as 3.0 becomes an integer, because
    some programs write integers like this.

    Args:
        data: The text in UTF-8.
        source: The file, for error messages.

    Raises:
        DataError: If the text is not valid JSON, an object has the same key twice, or a string
            contains half of a surrogate pair.
    """
    text = _text(data, "utf-8", source)
    try:
        document = json.loads(text, parse_float=_parse_float, object_pairs_hook=_with_each_key_once)
    except RecursionError as error:
        raise _not_json(source, "nested too deeply") from error
    except ValueError as error:
        raise _not_json(source, str(error)) from error
    for escape in _ESCAPES.finditer(data):
        if half := escape[1]:
            found = f"half of a surrogate pair, {half.decode()}, at byte {escape.start()}"
            raise _not_json(source, found)
    return document


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        msg = f"an object has the key {repeated!r} twice, and one of its values would be lost"
        raise ValueError(msg)
    return found


def _parse_float(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**63 else value


def _text(data: bytes, encoding: str, source: Path) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _not_json(source, f"not {encoding.upper()} at byte {error.start}") from error


def _not_json(source: Path, reason: str) -> DataError:
    return DataError(f"{source} is not valid JSON: {reason}. Correct the file or export it again.")


def shown(value: object, length: int = 100) -> str:
    """Return a value from a file as text for an error message, cut to ``length`` characters."""
    try:
        return shortened(repr(value), length)
    except RecursionError:
        return "a value that is nested too deeply to show"


def shortened(text: str, length: int = 100) -> str:
    """Return a text; if it is longer than ``length``, cut it and end it with three dots."""
    return text if len(text) <= length else text[: length - 3] + "..."
