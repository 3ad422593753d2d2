"""Encoded frames in files, read through memory maps.

A store is a folder with one file per tensor, which contains the values of all frames in order, and
``frames.json``, which describes the files. If nothing reads the values of a level of the maps, only
its shape is stored. A folder gets its name when it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import torch
from torch import Tensor

from vodet.encodings import EncodedFrames, FeatureMaps
from vodet.errors import DataError, OutputError
from vodet.files import read_file, writing
from vodet.names import file_names

_HEADER = "frames.json"
_ADVICE = "Delete the folder, and the next training run will write it again."


class _Column(msgspec.Struct, forbid_unknown_fields=True):
    """The description of one tensor.

    Args:
        name: ``sizes``, the name of an extra, or ``maps.`` and the number of a level.
        is_stored: Whether its values are stored, not only their shape.
        dtype: Type of its values, by its name in torch.
        shape: Shape of its values for one frame.
        channels_last: Whether values ``[C, h, w]`` are stored as ``[h, w, C]``, the memory format
            in which the base computes maps and RoIAlign reads them.
    """

    name: str
    is_stored: bool
    dtype: str
    shape: list[int]
    channels_last: bool

    @staticmethod
    def of(name: str, tensor: Tensor, *, is_stored: bool) -> _Column:
        last = torch.channels_last
        return _Column(
            name,
            is_stored,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=list(tensor.shape[1:]),
            channels_last=tensor.ndim == 4 and tensor.is_contiguous(memory_format=last),
        )

    @property
    def bytes_per_frame(self) -> int:
        size: int = getattr(torch, self.dtype).itemsize
        return torch.Size(self.shape).numel() * size if self.is_stored else 0

    def bytes_of(self, values: Tensor) -> memoryview:
        """Return values ``[F, ...]`` as they are stored."""
        ordered = values.movedim(1, -1) if self.channels_last else values
        flat: Any = ordered.contiguous().cpu().flatten().view(torch.uint8).numpy()
        return memoryview(flat)

    def mapped(self, path: Path, frames: int) -> Tensor:
        """Return the values of all frames as a memory map, which is read on access."""
        shape, dtype = self.shape, getattr(torch, self.dtype)
        if not self.is_stored:
            return torch.zeros((), dtype=dtype).expand(frames, *shape)
        count = frames * torch.Size(shape).numel()
        flat = torch.from_file(str(path), shared=False, size=count, dtype=dtype)
        if self.channels_last:
            return flat.view(frames, *shape[1:], shape[0]).movedim(-1, 1)
        return flat.view(frames, *shape)

    def rows(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return a copy of the values of some frames, or zeros if they are not stored."""
        if not self.is_stored:
            return values[:1].expand(len(rows), *values.shape[1:])
        if self.channels_last:
            return values.movedim(1, -1)[rows].movedim(-1, 1)
        return values[rows]


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    frames: int
    columns: list[_Column]
    about: dict[str, Any]


class FrameStore:
    """Encoded frames that `write_frames` wrote to a folder.

    Args:
        folder: The folder.

    Raises:
        DataError: If a file is missing, truncated or damaged.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._header = msgspec.json.decode(read_file(folder / _HEADER), type=_Header)
            self._tensors = {
                column.name: self._opened(column, folder / file)
                for column, file in _files(self._header.columns)
            }
        except DataError:
            raise
        except Exception as error:  # a damaged header or file may cause any error
            msg = f"Cannot read the candidate cache in {folder}: {error}. {_ADVICE}"
            raise DataError(msg) from error

    def _opened(self, column: _Column, path: Path) -> Tensor:
        expected = len(self) * column.bytes_per_frame
        found = path.stat().st_size if column.is_stored else 0
        if found != expected:
            msg = (
                f"{path}: expected {expected} bytes for {len(self)} frames of {column.dtype} "
                f"{column.shape}, as {_HEADER} says; found {found}. {_ADVICE}"
            )
            raise DataError(msg)
        return column.mapped(path, len(self))

    def __len__(self) -> int:
        return self._header.frames

    @property
    def sizes(self) -> Tensor:
        """``(height, width)`` of each frame without its padding, ``[F, 2]``."""
        return self._tensors["sizes"]

    def read(self, rows: Tensor) -> EncodedFrames:
        """Return a copy of some frames.

        Args:
            rows: Positions of the frames in the store, ``[F]`` int64, on the CPU.
        """
        found = {c.name: c.rows(self._tensors[c.name], rows) for c in self._header.columns}
        maps = [found.pop(name) for name in list(found) if name.startswith("maps.")]
        return EncodedFrames(FeatureMaps(tuple(maps)), found.pop("sizes"), found)


def write_frames(
    folder: Path,
    chunks: Iterable[EncodedFrames],
    frames: int,
    levels: int,
    about: Mapping[str, Any],
    announce: Callable[[int], None],
) -> None:
    """Write encoded frames to a new folder. Only one process may write to it at a time.

    Args:
        folder: The folder.
        chunks: All frames, in order, on any device.
        frames: Total number of frames.
        levels: How many levels of the maps to store, starting with the finest.
        about: Further values for the header, as JSON types.
        announce: Called before writing, with the size of the store in bytes.

    Raises:
        OutputError: If the frames do not fit on the disk or cannot be written. No files are left.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        with writing(folder, partial):
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
            partial.mkdir(parents=True)
        iterator = iter(chunks)
        first = next(iterator)
        columns = _columns(first, levels)
        size = frames * sum(column.bytes_per_frame for column in columns)
        announce(size)
        _check_space(folder.parent, size)
        _write(folder, partial, columns, chain([first], iterator))
        header = msgspec.json.encode(_Header(frames, columns, dict(about)))
        with writing(folder / _HEADER, partial):
            (partial / _HEADER).write_bytes(msgspec.json.format(header))
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _columns(frames: EncodedFrames, levels: int) -> list[_Column]:
    blank = {f"maps.{number}" for number in range(levels, len(frames.maps.levels))}
    return [
        _Column.of(name, tensor, is_stored=name not in blank)
        for name, tensor in _named(frames).items()
    ]


def _named(frames: EncodedFrames) -> dict[str, Tensor]:
    maps = {f"maps.{number}": level for number, level in enumerate(frames.maps.levels)}
    return {**maps, "sizes": frames.sizes, **frames.extras}


def _files(columns: list[_Column]) -> list[tuple[_Column, str]]:
    """Return columns, each with the name of its file."""
    return list(zip(columns, file_names(column.name for column in columns), strict=True))


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        msg = (
            f"The candidate cache needs {gigabytes(size)} in {folder}, where {gigabytes(free)} are "
            "free. Free some space, or set data.candidate_cache to a folder on another disk."
        )
        raise OutputError(msg)


def _write(
    folder: Path, partial: Path, columns: list[_Column], chunks: Iterator[EncodedFrames]
) -> None:
    """Write the files; not through a memory map, as a full disk would then kill the process."""
    stored = [(column, name) for column, name in _files(columns) if column.is_stored]
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for _, name in stored:
            with writing(folder / name, partial):
                files[name] = stack.enter_context((partial / name).open("wb", buffering=0))
        for chunk in chunks:
            tensors = _named(chunk)
            for column, name in stored:
                with writing(folder / name, partial):
                    _write_all(files[name], column.bytes_of(tensors[column.name]))
        for name, file in files.items():
            with writing(folder / name, partial):
                os.fsync(file.fileno())


def _write_all(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def gigabytes(size: int) -> str:
    """Return a number of bytes in GB.

    >>> gigabytes(1_234_567_890)
    '1.235 GB'
    """
    return f"{size / 1e9:,.3f} GB"
