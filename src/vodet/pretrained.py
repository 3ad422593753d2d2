"""Whether a detector that is being built may load the pretrained weights that it names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_may_load: ContextVar[bool] = ContextVar("may_load", default=True)


@contextmanager
def no_pretrained_weights() -> Iterator[None]:
    """Let nothing that is built in this context download pretrained weights or open their file.

    A checkpoint has all weights of its detector, and its author is not its reader.
    """
    token = _may_load.set(False)
    try:
        yield
    finally:
        _may_load.reset(token)


def allowed_source(
    pretrained: bool, checkpoint_path: str | Path | None
) -> tuple[bool, str | Path | None]:
    """Return where to load pretrained weights from: as asked, or from nowhere.

    Every stage that takes ``pretrained`` or ``checkpoint_path`` passes them through this function.
    """
    return (pretrained, checkpoint_path) if _may_load.get() else (False, None)
