"""The faults of a file, gathered to be reported together."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

from vodet.errors import DataError
from vodet.json_files import shortened

SHOWN_FAULTS = 10  # of each kind


class Faults:
    """The faults of one file by kind: all are counted, the first of each kind are kept."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._counts: Counter[str] = Counter()
        self._lines: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, place: str, expected: str, found: str) -> None:
        """Note a fault at a place like ``annotations[17].bbox``."""
        kind = re.sub(r"\[\d+\]", "", place) + f": expected {expected}"
        self._counts[kind] += 1
        if self._counts[kind] <= SHOWN_FAULTS:
            self._lines[kind].append(f"    {place}: found {shortened(found)}")

    def raise_if_any(self) -> None:
        """Report all faults.

        Raises:
            DataError: If there is one.
        """
        if self._counts:
            text = [f"{self.source}: {_how_many(self._counts.total())} in this ST-COCO file."]
            for kind, lines in self._lines.items():
                count = self._counts[kind]
                shown = "" if count == len(lines) else f", the first {len(lines)} of them"
                text += [f"  {kind} ({_how_many(count)}{shown})", *lines]
            raise DataError("\n".join(text))


def _how_many(faults: int) -> str:
    return "1 fault" if faults == 1 else f"{faults} faults"
