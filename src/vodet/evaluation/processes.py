"""Exchange between the processes of an evaluation: everything goes through the first process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor, distributed

from vodet.data.clips.sampler import process_of
from vodet.errors import VodetError

T = TypeVar("T")
Gathered = TypeVar("Gathered")


def gather_to_first(part: T) -> list[T] | None:
    """Return the parts of all processes, in their order, on the first process; None elsewhere."""
    rank, world_size = process_of()
    if world_size == 1:
        return [part]
    parts: list[T] | None = [part] * world_size if rank == 0 else None
    distributed.gather_object(part, parts)
    return parts


def on_first(function: Callable[[Gathered], T], gathered: Gathered | None) -> T:
    """Apply a function to what the first process has gathered.

    Returns:
        The result, on all processes; an error of the function is raised on all of them, too.
    """
    outcome: list[T | VodetError | None] = [None]
    if gathered is not None:
        try:
            outcome = [function(gathered)]
        except VodetError as error:  # the other processes wait for an outcome
            outcome = [error]
    if process_of()[1] > 1:
        distributed.broadcast_object_list(outcome)
    (result,) = outcome
    if isinstance(result, VodetError):
        raise result
    return result  # type: ignore[return-value]  # None only where `function` returns None


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with their values on the first process."""
    if process_of()[1] > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)
