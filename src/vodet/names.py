"""Makes names that were read from files safe to print and to use as file names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_JOINERS = "\u200c\u200d"  # invisible, but part of Persian words, Indic words and emoji
_RESERVED = frozenset('<>:"/\\|?*')  # not allowed on some file systems
_MAX_BYTES = 140  # file systems allow 255; the rest is for a suffix and a temporary name


def visible(text: str, keep: str = "") -> str:
    r"""Replace characters that could control a terminal with visible escape codes.

    Replaced are control codes, line breaks, marks that change the text direction, and bytes of file
    names that are not UTF-8.

    Args:
        text: Text that is not trusted, such as a class name from a file.
        keep: Characters to keep although they would be replaced, such as line breaks.

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
    """Return a valid and distinct file name for each name, in the same order.

    The file names are valid on all operating systems: characters that some systems do not allow
    become underscores, and names are cut to 140 bytes. If a file name would equal an earlier file
    name, ignoring case, a number is appended.

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
