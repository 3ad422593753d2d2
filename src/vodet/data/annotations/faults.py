"""Collects the faults of an ST-COCO file and reports them in one error."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

from vodet.errors import DataError
from vodet.json_files import shortened

SHOWN_FAULTS = 10  # per kind


class Faults:
    """Counts the faults of an ST-COCO file by kind; the first ten of each kind are reported."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._counts: Counter[str] = Counter()
        self._lines: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, place: str, expected: str, found: str) -> None:
        """Record a fault.

        Args:
            place: Where the fault is, such as ``annotations[17].bbox``.
            expected: What was expected there.
            found: What was found there.
        """
        kind = re.sub(r"\[\d+\]", "", place) + f": expected {expected}"
        self._counts[kind] += 1
        if self._counts[kind] <= SHOWN_FAULTS:
            self._lines[kind].append(f"    {place}: found {shortened(found)}")

    def raise_if_any(self) -> None:
        """Raise one error that reports all recorded faults, if there are any.

        Raises:
            DataError: If a fault was recorded.
        """
        if self._counts:
            text = [f"{self.source}: {_how_many(self._counts.total())} in this ST-COCO file."]
            for kind, lines in self._lines.items():
                count = self._counts[kind]
                shown = "" if count == len(lines) else f"; the first {len(lines)} are shown"
                text += [f"  {kind} ({_how_many(count)}{shown})", *lines]
            raise DataError("\n".join(text))


def _how_many(faults: int) -> str:
    return "1 fault" if faults == 1 else f"{faults} faults"
