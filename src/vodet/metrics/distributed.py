"""Exchange between the processes of a distributed evaluation: all goes through the first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

from vodet.errors import VodetError

T = TypeVar("T")
Gathered = TypeVar("Gathered")


def gather_to_first(part: T) -> list[T] | None:
    """Return the parts of all processes, in their order, on the first process; None elsewhere."""
    if not _is_distributed():
        return [part]
    parts: list[T] | None = [part] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(part, parts)
    return parts


def on_first(function: Callable[[Gathered], T], gathered: Gathered | None) -> T:
    """Apply a function to what the first process has gathered; all return its result or error."""
    outcome: list[T | VodetError | None] = [None]
    if gathered is not None:
        try:
            outcome = [function(gathered)]
        except VodetError as error:  # the other processes wait for an answer
            outcome = [error]
    if _is_distributed():
        dist.broadcast_object_list(outcome)
    (result,) = outcome
    if isinstance(result, VodetError):
        raise result
    return result  # type: ignore[return-value]  # None only where `function` returns None


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with their values on the first process."""
    if _is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
