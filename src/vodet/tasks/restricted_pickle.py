"""Reads pickled checkpoints without executing anything from the file.

A pickle names the functions that rebuild its contents. Tensors and arrays need only a few known
functions. These functions are called, or replaced by versions that check their arguments. A file
that names any other function is refused.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch._utils import _rebuild_tensor_v2
from torch.serialization import MAGIC_NUMBER, safe_globals

from vodet.errors import CheckpointError
from vodet.tasks.checkpoint_file import (
    WHAT_READS_WHAT,
    ByteFile,
    FilePath,
    check_members,
    is_zip,
    opened,
)


def read_pickle(path: FilePath, *, only_zip: bool = False) -> Any:
    """Read a file that ``torch.save`` wrote, in the zip or the older format, or a plain pickle.

    Args:
        path: The file.
        only_zip: Whether to reject files that are not in the zip format. Only this format has
            checksums.

    Returns:
        The saved object, made of tensors on the CPU, arrays of numbers and plain values. Tensors of
        a plain pickle have no gradient and no hooks.

    Raises:
        CheckpointError: If the file does not exist or is damaged, or if it contains other objects.
            They are rejected because loading them could run code.
    """
    with opened(path) as file:
        try:
            return _read(file, only_zip)
        except Exception as error:  # the readers fail in many ways
            msg = f"The checkpoint {path} {_fault(error)}"
            raise CheckpointError(msg) from error


def _fault(error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0].partition(". ")[0][:200]
    # An intact zip file that cannot be read is from another program, such as TorchScript.
    advice = "Copy it again." if isinstance(error, BadZipFile) else WHAT_READS_WHAT
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused is None or not isinstance(error, pickle.UnpicklingError):
        return (
            "is damaged or not a checkpoint: expected a file written by torch.save, found a file "
            f"that cannot be read ({reason}). {advice}"
        )
    return (
        f"was not loaded because it could run code: it contains {refused.group(1)}, expected only "
        "tensors and plain values. If you trust the file, open it with the program that wrote it, "
        "and save only the weights."
    )


def _read(file: ByteFile, only_zip: bool) -> Any:
    if is_zip(file):
        return _read_torch(file)
    if only_zip:
        msg = f"its {file.seek(0, 2)} bytes do not begin with the signature of a zip file"
        raise ValueError(msg)
    content = _Reader(file, encoding="latin1").load()  # for bytes of Python 2, as in model zoos
    if isinstance(content, int) and content == MAGIC_NUMBER:
        # The older format of torch.save is a sequence of pickles. This was the first.
        file.seek(0)
        content = _read_torch(file)
    if file.read(1):
        msg = "more bytes follow the end of the pickle"
        raise ValueError(msg)
    return content


def _read_torch(file: ByteFile) -> Any:
    if is_zip(file):
        check_members(file)
    arrays = [(function, f"{module}.{name}") for (module, name), function in _NUMPY.items()]
    with safe_globals([*arrays]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about kinds of tensors that are refused afterwards
        return torch.load(file, map_location="cpu", weights_only=True, mmap=False)


class _Reader(pickle._Unpickler):
    """Unpickles tensors, arrays and plain values, and nothing else.

    It extends the unpickler that is written in Python, because the unpickler in C allocates as much
    memory for its memo as a file asks for.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the function or class that a pickle names.

        Raises:
            UnpicklingError: If this function or class is not allowed.
        """
        if (module, name) not in _ALLOWED:
            msg = f"GLOBAL {module}.{name} is not allowed."  # worded like torch's error
            raise pickle.UnpicklingError(msg)
        return _ALLOWED[module, name]


class _DType:
    """Replaces ``numpy.dtype`` during unpickling, since numpy does not check the pickled state."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = str(code)
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])

    @property
    def value(self) -> np.dtype[Any]:
        """The dtype in numpy; raises a ValueError for anything but little-endian numbers."""
        is_plain = re.fullmatch(r"[biuf][1248]", self.code) and self.order != ">"
        if not is_plain:
            msg = f"arrays of the numpy type {self.order + self.code!r} are not supported"
            raise ValueError(msg)
        return np.dtype(self.code)


class _Array(np.ndarray):
    """Replaces ``numpy.ndarray`` during unpickling."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, is_fortran, data = state
        super().__setstate__((version, shape, dtype.value, is_fortran, data))


def _new_array(*_: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _array_of(data: Any, dtype: _DType, shape: Sequence[int], order: Any, *_: Any) -> np.ndarray:
    """Rebuild an array that was pickled with protocol 5."""
    return np.frombuffer(data, dtype.value).reshape(shape, order=order)


def _scalar(dtype: _DType, data: bytes | str) -> Any:
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype.value)[0]


def _storage(data: bytes) -> Any:
    """Rebuild the pickled storage of a tensor; torch's own function would unpickle anything."""
    return _read_torch(io.BytesIO(data))


def _bytes(text: str, encoding: str) -> bytes:
    """Rebuild bytes that were pickled with protocol 2; other encodings might decompress data."""
    if encoding != "latin1":
        msg = f"bytes in the encoding {encoding!r} are not supported"
        raise ValueError(msg)
    return text.encode(encoding)


def _tensor(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Any:
    function: Callable[..., Tensor] = _rebuild_tensor_v2
    stored = storage._untyped_storage.nbytes()
    tensor = function(storage, offset, size, stride, False, OrderedDict())
    if tensor.untyped_storage().nbytes() != stored:
        msg = f"a tensor of shape {tuple(size)} does not fit in {stored} stored bytes"
        raise ValueError(msg)
    return tensor


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
    ("_codecs", "encode"): _bytes,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
}
