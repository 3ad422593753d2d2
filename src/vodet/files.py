"""Reads files, and writes files under a temporary name until they are complete."""

from __future__ import annotations

import errno
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vodet.errors import OutputError


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: If the file cannot be read, is not a regular file or does not fit in memory.
    """
    try:
        with open_file(path) as file:
            return file.read()
    except MemoryError as error:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), os.fspath(path)) from error


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading bytes.

    Pipes, devices and sockets are rejected, because reading them may never end.

    Raises:
        OSError: If the file cannot be opened or is not a regular file.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  called for every image, and a Path is slower
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # open() refuses folders itself
            msg = f"it is a {_KINDS.get(stat.S_IFMT(mode), 'special file')}, not a regular file"
            raise OSError(msg)
        return open(path, "rb")  # noqa: PTH123  as above; the caller closes it
    except ValueError as error:  # such as a null byte in the name
        msg = f"no file can have this name ({error})"
        raise OSError(msg) from error


_KINDS = {
    stat.S_IFIFO: "named pipe",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFSOCK: "socket",
}


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename the written file to ``path`` at the end.

    The temporary path is in the folder of ``path``, which is created if necessary. After an error,
    the temporary file is deleted, and an existing file at ``path`` is unchanged.

    Raises:
        OutputError: If the file cannot be written: the disk is full, permission is missing, or
            ``path`` is a folder.
    """
    target = Path(path)
    # Only the start of the target's name, which may already have the maximum length.
    key = zlib.crc32(os.fsencode(target.name))
    partial = target.with_name(f".{target.name[:40]}.{key:08x}.{os.getpid()}.partial")
    try:
        with writing(target, partial):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            partial.replace(target)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def writing(target: Path, temporary: Path) -> Iterator[None]:
    """Raise an `OutputError` that names the target if writing it fails in the ``with`` block.

    Args:
        target: The file or folder to write.
        temporary: The temporary file that is renamed to the target, or the folder that contains it.

    Raises:
        OutputError: If the block raises an OSError. An OSError that names an unrelated file, such
            as an input file, is raised unchanged.
    """
    try:
        yield
    except (OutputError, BrokenPipeError):  # BrokenPipeError: standard output was closed
        raise
    except OSError as error:
        named = target if error.filename is None else Path(error.filename)
        if not named.is_relative_to(temporary) and named not in (target, *target.parents):
            raise  # the error is about another file, such as one that was being read
        msg = (
            f"Cannot write {target}: {error.strerror or error}. Check the free disk space and the "
            "permissions, or write to another path."
        )
        raise OutputError(msg) from error


def remove_partial(folder: str | os.PathLike[str]) -> None:
    """Delete the temporary files of `replacing` that killed processes left in a folder."""
    for partial in Path(folder).glob(".*.partial"):
        partial.unlink(missing_ok=True)
