"""Communication between the processes of an evaluation, always to or from the first process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor, distributed

from vodet.data.clips.sampler import process_of

T = TypeVar("T")
Gathered = TypeVar("Gathered")


def gather_to_first(part: T) -> list[T] | None:
    """Gather an object from each process on the first process; all processes must call it.

    Returns:
        On the first process, the objects of all processes in the order of their ranks; on the other
        processes, None.
    """
    rank, world_size = process_of()
    if world_size == 1:
        return [part]
    parts: list[T] | None = [part] * world_size if rank == 0 else None
    distributed.gather_object(part, parts)
    return parts


def on_first(function: Callable[[Gathered], T], gathered: Gathered | None) -> T:
    """Call a function on the first process, and return its result on all processes.

    All processes must call this. If the function raises an exception, all processes raise it.

    Args:
        function: The function.
        gathered: Its argument, from `gather_to_first`: None on all but the first process.
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
    """Overwrite tensors of all processes with the values that they have on the first process."""
    if process_of()[1] > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)
