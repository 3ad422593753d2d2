"""Read-only arrays that all processes of a training run share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from multiprocessing.reduction import ForkingPickler
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor


def starts_of(lengths: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " n+1"]:
    """Return where each of several consecutive groups of rows starts, given their lengths.

    The total number of rows is appended, so the rows of group ``i`` are
    ``starts[i]:starts[i + 1]``.
    """
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))


@dataclass(frozen=True, eq=False, repr=False)
class Columns:
    """Base class of frozen dataclasses whose read-only arrays are shared by all processes.

    Forked worker processes inherit the arrays. The arrays are copied to shared memory only when a
    worker process is spawned, so with forked workers a data set may be larger than `/dev/shm`.
    """

    _shared: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __init_subclass__(cls) -> None:
        ForkingPickler.register(cls, _reduce_shared)

    def __post_init__(self) -> None:
        for name, value in self._values().items():
            if isinstance(value, np.ndarray):
                view = value.view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    def _values(self) -> dict[str, Any]:
        return {column.name: getattr(self, column.name) for column in fields(self) if column.init}

    @property
    def nbytes(self) -> int:
        """Total size of the arrays in bytes."""
        return sum(getattr(value, "nbytes", 0) for value in self._values().values())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self._values().values())


def _reduce_shared(columns: Columns) -> tuple[Any, ...]:
    values, shared = columns._values(), columns._shared
    if not shared:
        shared = {
            name: _shared_copy(value)
            for name, value in values.items()
            if isinstance(value, np.ndarray)
        }
    others = {name: value for name, value in values.items() if name not in shared}
    vars(columns).update(vars(_from_shared(type(columns), others, shared)))
    return _from_shared, (type(columns), others, shared)


def _shared_copy(array: np.ndarray) -> Tensor:
    # Copied, because moving the array would leave all other references to it dangling.
    tensor = torch.tensor(array)
    tensor.untyped_storage().share_memory_()
    return tensor


def _from_shared(kind: type[Columns], others: dict[str, Any], shared: dict[str, Tensor]) -> Columns:
    columns = kind(**others, **{name: tensor.numpy() for name, tensor in shared.items()})
    columns._shared.update(shared)
    return columns


@dataclass(frozen=True, eq=False, repr=False)
class PackedStrings(Columns):
    """An immutable sequence of strings, stored in one buffer.

    Args:
        buffer: The concatenated strings in UTF-8.
        starts: String ``i`` is ``buffer[starts[i]:starts[i + 1]]``.
    """

    buffer: UInt8[np.ndarray, " bytes"]
    starts: Int64[np.ndarray, " starts"]

    @staticmethod
    def pack(strings: Sequence[str]) -> PackedStrings:
        """Return the strings as ``PackedStrings``, copied into a new buffer."""
        encoded = [string.encode() for string in strings]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return PackedStrings(np.frombuffer(b"".join(encoded), np.uint8), starts_of(lengths))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: SupportsIndex) -> str:
        position = range(len(self))[row]
        return self.buffer[slice(*self.starts[position : position + 2])].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def reorder(self, rows: Int[np.ndarray, " n"]) -> PackedStrings:
        """Return the strings at the positions ``rows``, in this order."""
        if np.array_equal(rows, np.arange(len(self))):  # most files are in order
            return self
        return PackedStrings.pack([self[row] for row in rows.tolist()])
