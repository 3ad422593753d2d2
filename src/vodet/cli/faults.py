"""One-line messages for errors that can occur in every command."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from vodet.errors import VodetError

_HINTS = {
    errno.ENOSPC: " Free some space there, or choose another folder.",
    errno.EDQUOT: " Free some space there, or choose another folder.",
    errno.EACCES: " Change the permissions, or choose another folder.",
    errno.EPERM: " Change the permissions, or choose another folder.",
    errno.EMFILE: " Raise the limit (ulimit -n) or use fewer workers.",
}


def of_vodet(error: BaseException) -> str | None:
    """Return the message of the vodet error that caused an error, if there is one."""
    for cause in causes(error):
        if isinstance(cause, VodetError):  # after the traceback of a data loader worker
            name = f"{type(cause).__module__}.{type(cause).__qualname__}: "
            return str(cause).rpartition(name)[2]
    return None


def of_the_machine(error: BaseException) -> str | None:
    """Return a message for an error of a file, the disk or the memory, else None."""
    cause: BaseException | None = error
    while cause is not None:  # without __context__: that error has been handled
        if isinstance(cause, OSError):
            return _of_the_system(cause)
        if is_named(cause, "OutOfMemoryError", "MemoryError") or "allocate memory" in str(cause):
            found = str(cause).partition("\n")[0] or type(cause).__name__
            return (
                f"Out of memory ({found}). Use smaller batches, chunks or frames, or fewer workers."
            )
        cause = cause.__cause__
    return None


def explain(error: Exception) -> str | None:
    """Return the message for an error that the user can fix, else None."""
    return of_vodet(error) or of_the_machine(error)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, then its causes; the context of an error stands in for a missing cause."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_named(error: BaseException, *names: str) -> bool:
    """Return whether an error has a class of one of these names, without importing the class."""
    return any(base.__name__ in names for base in type(error).__mro__)


def _of_the_system(error: OSError) -> str:
    if error.strerror is None:
        return str(error).strip().rpartition("\n")[2]
    files = " and ".join(str(name) for name in (error.filename, error.filename2) if name)
    where = f"{files}: " if files else ""
    return f"{where}{error.strerror}.{_HINTS.get(error.errno or 0, '')}"
