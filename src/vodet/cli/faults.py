"""Errors that every command can meet, in one line for the user."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from vodet.errors import VodetError

_HINTS = {
    errno.ENOSPC: " Free space there, or choose another folder.",
    errno.EDQUOT: " Free space there, or choose another folder.",
    errno.EACCES: " This user has no right to it.",
    errno.EPERM: " This user has no right to it.",
    errno.EMFILE: " Raise the limit (ulimit -n), or use fewer workers.",
}


def of_vodet(error: BaseException) -> str | None:
    """Return the message of the error of vodet that has led to another error, if one has."""
    for cause in causes(error):
        if isinstance(cause, VodetError):  # a worker of a data loader puts a traceback before it
            name = f"{type(cause).__module__}.{type(cause).__qualname__}: "
            return str(cause).rpartition(name)[2]
    return None


def of_the_machine(error: BaseException) -> str | None:
    """Return what to tell the user if a file, the disk or the memory was at fault, else None."""
    cause: BaseException | None = error
    while cause is not None:  # not what was being handled: that has been dealt with
        if isinstance(cause, OSError):
            return _of_the_system(cause)
        if is_named(cause, "OutOfMemoryError", "MemoryError") or "allocate memory" in str(cause):
            found = str(cause).partition("\n")[0] or type(cause).__name__
            return (
                f"The memory is used up ({found}). Take less at once: smaller batches, chunks or "
                "frames, fewer workers."
            )
        cause = cause.__cause__
    return None


def explain(error: Exception) -> str | None:
    """Return what to tell the user of an error that is theirs to mend, else None."""
    return of_vodet(error) or of_the_machine(error)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what has led to it: its cause, or what was being handled."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_named(error: BaseException, *names: str) -> bool:
    """Say whether an error is of a class, by name: its library need not be imported for that."""
    return any(base.__name__ in names for base in type(error).__mro__)


def _of_the_system(error: OSError) -> str:
    if error.strerror is None:
        return str(error).strip().rpartition("\n")[2]
    files = " and ".join(str(name) for name in (error.filename, error.filename2) if name)
    where = f"{files}: " if files else ""
    return f"{where}{error.strerror}.{_HINTS.get(error.errno or 0, '')}"
