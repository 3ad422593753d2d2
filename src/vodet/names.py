"""Makes names of classes, videos and files from outside safe to print and to use as file names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_JOINERS = "\u200c\u200d"  # invisible, but part of Persian words, Indic words and emoji
_RESERVED = frozenset('<>:"/\\|?*')  # not allowed on some file systems
_MAX_BYTES = 140  # file systems allow 255; the rest is for a suffix and a temporary name


def visible(text: str, keep: str = "") -> str:
    r"""Return a text in which characters that could act on a terminal are shown as escape codes.

    These are control codes, line breaks, marks that change the text direction, and bytes of file
    names that are not UTF-8.

    Args:
        text: Text from outside.
        keep: Further characters to leave unchanged, such as line breaks.

    >>> visible("car\x1b[31m")
    'car\\x1b[31m'
    """
    if text.isprintable():
        return text
    kept = _JOINERS + keep
    return "".join(
        letter if letter.isprintable() or letter in kept else _escaped(letter) for letter in text
    )


def file_names(names: Iterable[str]) -> list[str]:
    """Return a distinct name for each input, valid for files and folders on any system.

    Characters that are not allowed on all systems become underscores, and long names are cut. If
    the result equals an earlier one except for upper and lower case, a number is appended.

    >>> file_names(["a b", "val/1", "val:1", "VAL_1", ".."])
    ['a b', 'val_1', 'val_1-2', 'VAL_1-3', '_']
    """
    taken: set[str] = set()
    found = []
    for name in names:
        base = unique = _allowed(name)
        number = 1
        while unique.casefold() in taken:
            number += 1
            unique = f"{base}-{number}"
        taken.add(unique.casefold())
        found.append(unique)
    return found


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _allowed(name: str) -> str:
    letters = unicodedata.normalize("NFC", name)
    allowed = "".join(
        "_" if letter in _RESERVED or not letter.isprintable() else letter for letter in letters
    )
    short = allowed.encode()[:_MAX_BYTES].decode(errors="ignore")
    return short.strip(" .") or "_"
