"""Messages for errors that can occur in every command."""

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


def vodet_message(error: BaseException) -> str | None:
    """Return the message of the first `VodetError` among an error and its causes, or None."""
    for cause in causes(error):
        if isinstance(cause, VodetError):
            # An error of a data loader worker has its traceback before its message.
            name = f"{type(cause).__module__}.{type(cause).__qualname__}: "
            return str(cause).rpartition(name)[2]
    return None


def system_message(error: BaseException) -> str | None:
    """Return a message if the cause of an error is an `OSError` or lack of memory, else None."""
    cause: BaseException | None = error
    while cause is not None:  # ignores __context__, which holds errors that have been handled
        if isinstance(cause, OSError):
            return _os_error_message(cause)
        if is_named(cause, "OutOfMemoryError", "MemoryError") or "allocate memory" in str(cause):
            found = str(cause).partition("\n")[0] or type(cause).__name__
            return (
                f"Out of memory ({found}). Use smaller batches, chunks or frames, or fewer workers."
            )
        cause = cause.__cause__
    return None


def explain(error: Exception) -> str | None:
    """Return the message for an error that the user can fix, or None for any other error."""
    return vodet_message(error) or system_message(error)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, then its causes. An error without a cause is followed by its context."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_named(error: BaseException, *names: str) -> bool:
    """Return whether the class of an error, or a base class, has one of the names.

    Unlike with `isinstance`, the class need not be imported.
    """
    return any(base.__name__ in names for base in type(error).__mro__)


def _os_error_message(error: OSError) -> str:
    if error.strerror is None:
        return str(error).strip().rpartition("\n")[2]
    files = " and ".join(str(name) for name in (error.filename, error.filename2) if name)
    where = f"{files}: " if files else ""
    return f"{where}{error.strerror}.{_HINTS.get(error.errno or 0, '')}"
