"""Looks into the files of a data set to find its format, without reading everything."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from vodet.data.formats.xml_files import read_xml
from vodet.errors import DataError
from vodet.json_files import parse_json, read_json


def first_entries(path: Path) -> dict[str, dict[str, Any]]:
    """Return the first entry of each array in a JSON file, by key.

    Args:
        path: The file. If it contains an array, the key is empty.

    Returns:
        The entries that are objects, and an empty object for an empty array; nothing if the path
        is not a JSON file.
    """
    if not path.is_file() or not path.name.endswith((".json", ".json.gz")):
        return {}
    return _first_entries(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _first_entries(path: Path, _: int) -> dict[str, dict[str, Any]]:
    try:
        data = read_json(path, "a JSON file")
        document = _outline(data, path)
    except DataError:
        return {}
    tables = document if isinstance(document, dict) else {"": document}
    found = {}
    for key, entries in tables.items():
        entry = _first(entries)
        if isinstance(entry, dict):
            found[key] = entry
    return found


def _outline(data: bytes, path: Path) -> Any:
    try:  # faster than parsing everything
        return msgspec.json.decode(data, type=dict[str, msgspec.Raw] | list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return parse_json(data, path)


def _first(entries: Any) -> Any:
    try:
        if isinstance(entries, msgspec.Raw):
            entries = msgspec.json.decode(entries, type=list[msgspec.Raw])
        entry = entries[0] if entries else {}
        return msgspec.json.decode(entry) if isinstance(entry, msgspec.Raw) else entry
    except (msgspec.MsgspecError, TypeError, KeyError, RecursionError):
        return None  # not an array


def has_root(path: Path, root: str) -> bool:
    """Return whether a path is an XML file with a root element of a name."""
    try:
        return path.suffix == ".xml" and read_xml(path, root, "an XML file") is not None
    except DataError:
        return False


def holds(folder: Path, *patterns: str) -> bool:
    """Return whether a folder has a file or folder that matches one of the patterns."""
    return folder.is_dir() and any(any(folder.glob(pattern)) for pattern in patterns)


def first_file(folder: Path, pattern: str) -> Path:
    """Return the first file of a folder that matches a pattern; the folder if there is none."""
    return min(folder.glob(pattern), default=folder) if folder.is_dir() else folder
