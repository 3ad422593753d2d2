"""Files that are complete or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a name in the same folder to write to; rename it to ``path`` if all went well.

    The folder is made. Whatever happens, nothing half written is left, and what was at ``path``
    stays until the new file is complete.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(folder: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed have left half written in a folder."""
    for partial in Path(folder).glob(".*.partial"):
        partial.unlink(missing_ok=True)
