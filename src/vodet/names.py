"""Names from outside, of classes, videos and files: made safe to show and to name files with."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_JOINERS = "\u200c\u200d"  # invisible, but part of Persian words, Indic words and emoji
_RESERVED = frozenset('<>:"/\\|?*')  # on some file system
_MAX_BYTES = 140  # file systems allow 255: leaves room for a suffix and a temporary name


def visible(text: str, keep: str = "") -> str:
    r"""Return a text with each character that would act on a terminal written as its escape code.

    These are control codes, line breaks, marks that turn the direction of writing, and bytes of
    file names that are not UTF-8.

    Args:
        text: Comes from outside.
        keep: Further characters to leave as they are, such as line breaks.

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
    """Return for each name one that a file or folder can have on any system, all distinct.

    Characters that are not allowed everywhere become underscores, and long names are cut; a name
    that is then taken, also in other upper and lower case, gets a number.

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
