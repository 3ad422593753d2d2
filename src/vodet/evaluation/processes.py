"""Communication between the processes of an evaluation, always through the first process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor, distributed

from vodet.data.clips.sampler import process_of

T = TypeVar("T")
Gathered = TypeVar("Gathered")


def gather_to_first(part: T) -> list[T] | None:
    """Return the parts of all processes, by rank, on the first process; None elsewhere."""
    rank, world_size = process_of()
    if world_size == 1:
        return [part]
    parts: list[T] | None = [part] * world_size if rank == 0 else None
    distributed.gather_object(part, parts)
    return parts


def on_first(function: Callable[[Gathered], T], gathered: Gathered | None) -> T:
    """Apply a function to the gathered data on the first process.

    Returns:
        The result, on all processes. An exception of the function is raised on all processes.
    """
    outcome: list[T | Exception | None] = [None]
    if gathered is not None:
        try:
            outcome = [function(gathered)]
        except Exception as error:  # the other processes wait for the result or an exception
            outcome = [error]
    if process_of()[1] > 1:
        distributed.broadcast_object_list(outcome)
    (result,) = outcome
    if isinstance(result, Exception):
        raise result
    return result  # type: ignore[return-value]  # None only where `function` returns None


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with their values on the first process."""
    if process_of()[1] > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)
