"""Controls whether a new detector may load the pretrained weights that its config names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_may_load: ContextVar[bool] = ContextVar("may_load", default=True)


@contextmanager
def no_pretrained_weights() -> Iterator[None]:
    """Within this context, new detectors do not download pretrained weights or open weight files.

    Use it to rebuild a detector from a checkpoint: the checkpoint contains all weights, and the
    files and URLs that its config names may not be trustworthy.
    """
    token = _may_load.set(False)
    try:
        yield
    finally:
        _may_load.reset(token)


def allowed_source(
    pretrained: bool, checkpoint_path: str | Path | None
) -> tuple[bool, str | Path | None]:
    """Return both arguments unchanged, or ``(False, None)`` within `no_pretrained_weights`.

    Every module that can load pretrained weights must pass these arguments through this function.

    Args:
        pretrained: Whether to load the pretrained weights of a library, such as timm.
        checkpoint_path: File, or name of a model, from which to load weights; None for neither.
    """
    return (pretrained, checkpoint_path) if _may_load.get() else (False, None)
