"""Reading whole files, and writing files that are complete or absent."""

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
    """Read a whole file.

    Raises:
        OSError: If it cannot be read, for whatever reason; see `open_file`.
    """
    try:
        with open_file(path) as file:
            return file.read()
    except MemoryError as error:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), os.fspath(path)) from error


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading, and no pipe, device or socket, which may never end.

    Raises:
        OSError: If it cannot be opened, for whatever reason.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  called for every image: a Path takes longer
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder has an error of its own
            msg = f"it is a {_KINDS.get(stat.S_IFMT(mode), 'special file')}, not a regular file"
            raise OSError(msg)
        return open(path, "rb")  # noqa: PTH123  as above; the caller closes it
    except ValueError as error:  # a zero byte in the name
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
    """Give a name in the same folder to write to; rename it to ``path`` if all went well.

    The folder is made. Whatever happens, nothing half written is left, and what was at ``path``
    stays until the new file is complete.

    Raises:
        OutputError: If the file cannot be written: full disk, no permission, a folder in its place.
    """
    target = Path(path)
    # Short, since the name of the target alone may be as long as a name can be.
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
    """Name the file to write in the errors of writing it.

    Args:
        target: The file or folder.
        temporary: The file that is written to first, or a folder of such files.

    Raises:
        OutputError: In the place of an OSError, unless that names a file elsewhere.
    """
    try:
        yield
    except (OutputError, BrokenPipeError):  # the second: standard output was closed
        raise
    except OSError as error:
        named = target if error.filename is None else Path(error.filename)
        if not named.is_relative_to(temporary) and named not in (target, *target.parents):
            raise  # of a file that was read meanwhile
        msg = f"Cannot write {target}: {error.strerror or error}."
        raise OutputError(msg) from error


def remove_partial(folder: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed have left half written in a folder."""
    for partial in Path(folder).glob(".*.partial"):
        partial.unlink(missing_ok=True)
