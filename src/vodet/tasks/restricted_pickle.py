"""Checkpoints of other programs, read without executing anything from them.

A pickle names the functions that rebuild what it holds. Those of tensors and arrays are few and
known. They are called, or a stand-in that checks what it is given; a file that names any other is
refused.
"""

from __future__ import annotations

import codecs
import io
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor
from torch._utils import _rebuild_tensor_v2
from torch.serialization import MAGIC_NUMBER, safe_globals

from vodet.errors import CheckpointError


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a file of ``torch.save``, of today or before its zip files, or a plain pickle.

    Args:
        path: The file.

    Returns:
        What was saved: tensors, on the CPU, arrays of numbers and plain values. Tensors of a plain
        pickle come without gradient and hooks.

    Raises:
        CheckpointError: If there is no file, it is damaged, or it holds more than that, which
            could run code.
    """
    if not Path(path).is_file():
        msg = f"Expected a checkpoint at {path}, found no such file."
        raise CheckpointError(msg)
    try:
        return _read(path)
    except Exception as error:  # whatever the readers stumble over
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None or not isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(_damaged(path, error)) from error
        msg = (
            f"The checkpoint {path} was not loaded, since it could run code: it holds "
            f"{refused.group(1)} beside tensors and plain values. If you trust it, load it where "
            "it was written and save its weights alone: torch.save({'model': ...}, FILE)."
        )
        raise CheckpointError(msg) from error


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the weights of a checkpoint of detectron2, executing nothing from it.

    Args:
        path: A file with weights in its entry ``model``, as detectron2 and its model zoo write it,
            or with nothing but weights.

    Raises:
        CheckpointError: If it cannot be read or holds no weights.
    """
    checkpoint = read_pickle(path)
    found = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not isinstance(found, dict) or not found or not all(map(_is_weight, found.values())):
        is_dict = isinstance(checkpoint, dict)
        entries = sorted(map(str, checkpoint))[:10] if is_dict else type(checkpoint).__name__
        msg = (
            f"The checkpoint {path} is not one of detectron2: expected the entry 'model' with a "
            f"tensor for each name, found {entries}. Give the file that its training wrote, such "
            "as model_final.pth."
        )
        raise CheckpointError(msg)
    return {
        str(name): value.detach() if isinstance(value, Tensor) else torch.tensor(np.asarray(value))
        for name, value in found.items()
    }


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray | np.number)


def _read(path: str | os.PathLike[str]) -> Any:
    if is_zipfile(path):
        return _read_torch(path)
    with Path(path).open("rb") as file:
        first = _Reader(file, encoding="latin1").load()  # bytes of Python 2, as in model zoos
    # What torch.save wrote before its zip files is several pickles, of which this is the first.
    return _read_torch(path) if isinstance(first, int) and first == MAGIC_NUMBER else first


def _read_torch(file: str | os.PathLike[str] | io.BytesIO) -> Any:
    arrays = [(function, f"{module}.{name}") for (module, name), function in _NUMPY.items()]
    with safe_globals([*arrays]):
        return torch.load(file, map_location="cpu", weights_only=True)


def _damaged(path: str | os.PathLike[str], error: BaseException) -> str:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    return (
        f"The checkpoint {path} is damaged, or is none: expected what torch.save or pickle writes, "
        f"found what cannot be read ({reason}). Copy it again."
    )


class _Reader(pickle.Unpickler):
    """Unpickles tensors, arrays and plain values; finds nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names, if it may."""
        if (module, name) not in _ALLOWED:
            msg = f"GLOBAL {module}.{name} is not allowed."  # in the words of torch
            raise pickle.UnpicklingError(msg)
        return _ALLOWED[module, name]


class _DType:
    """The type of the numbers of an array; numpy's own would take any state for true."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = str(code)
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])

    @property
    def value(self) -> np.dtype[Any]:
        """The type, if it is one of plain numbers."""
        is_plain = re.fullmatch(r"[biuf][1248]", self.code) and self.order != ">"
        if not is_plain:
            msg = f"Arrays of {self.order + self.code!r} are not read."
            raise ValueError(msg)
        return np.dtype(self.code)


class _Array(np.ndarray):
    """An array on its way out of a pickle."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, is_fortran, data = state
        super().__setstate__((version, shape, dtype.value, is_fortran, data))


def _new_array(*_: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _array_of(data: Any, dtype: _DType, shape: Sequence[int], order: Any, *_: Any) -> np.ndarray:
    """Rebuild an array as pickles of protocol 5 ask for it."""
    return np.frombuffer(data, dtype.value).reshape(shape, order=order)


def _scalar(dtype: _DType, data: bytes | str) -> Any:
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype.value)[0]


def _storage(data: bytes) -> Any:
    """Read a storage; torch's own function of this purpose reads without limits."""
    return _read_torch(io.BytesIO(data))


def _tensor(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Any:
    function: Callable[..., Tensor] = _rebuild_tensor_v2
    return function(storage, offset, size, stride, False, OrderedDict())


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


_NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")  # of numpy 1 and 2
        for module, name, function in (
            ("multiarray", "_reconstruct", _new_array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _array_of),
        )
    },
}
_ALLOWED: dict[tuple[str, str], Any] = {
    **_NUMPY,
    ("_codecs", "encode"): codecs.encode,  # how bytes are written by protocol 2
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
}
