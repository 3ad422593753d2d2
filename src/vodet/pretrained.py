"""Controls whether a new detector may load the pretrained weights that its config names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_may_load: ContextVar[bool] = ContextVar("may_load", default=True)


@contextmanager
def no_pretrained_weights() -> Iterator[None]:
    """Build detectors without downloading pretrained weights or opening files of weights.

    This is for detectors from a checkpoint: it contains all weights, and the files and URLs that
    its config names are not to be trusted.
    """
    token = _may_load.set(False)
    try:
        yield
    finally:
        _may_load.reset(token)


def allowed_source(
    pretrained: bool, checkpoint_path: str | Path | None
) -> tuple[bool, str | Path | None]:
    """Return the source of pretrained weights, or no source within `no_pretrained_weights`.

    Every stage that takes ``pretrained`` or ``checkpoint_path`` passes them through this function.
    """
    return (pretrained, checkpoint_path) if _may_load.get() else (False, None)
