"""Runs a command so that it cleans up, prints at most one message and returns an exit status."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_ASK_TO_STOP = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
AGAIN = "No partial files are left. Run the same command to start again."

_SECONDS_AFTER_STOP = 15  # how long a stopped process waits for the process that started it to end


class Stopped(BaseException):
    """Raised when a signal asks the process to stop.

    This is not an Exception, so that libraries do not catch it.
    """


class Stop:
    """A signal handler that raises `Stopped` and records the signal.

    Attributes:
        number: The signal that asked the process to stop; None if there was no signal.
    """

    number: signal.Signals | None = None

    def __init__(self) -> None:
        self._process = os.getpid()

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: raise `Stopped` for the first; end the process for the second."""
        if os.getpid() != self._process:  # a forked worker has inherited the handler
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if self.number is not None:
            os._exit(128 + number)
        self.number = signal.Signals(number)
        raise Stopped(self.number.name)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within this context, SIGINT, SIGTERM and SIGHUP raise `Stopped`.

    A signal that the process ignores, as under nohup, is still ignored. The context yields the
    handler, which records the signal.
    """
    stop = Stop()
    before = {number: signal.getsignal(number) for number in _ASK_TO_STOP}
    handled = [number for number, old in before.items() if old not in (signal.SIG_IGN, None)]
    for number in handled:
        signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number in handled:
            signal.signal(number, before[number])


def run_command(
    work: Callable[[], None],
    explain: Callable[[Exception], str | None],
    how_to_continue: Callable[[], str],
) -> int:
    """Run a command and return the exit status of the process.

    Args:
        work: What the command does.
        explain: Returns the message for an error that the user can fix, or None for other errors.
        how_to_continue: Returns the message to print after a signal has stopped the command.
    """
    _prepare_streams()
    if is_started_by_another():
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    message = None
    with stoppable() as stop:
        try:
            message = _attempt(work, explain)
        except BrokenPipeError:  # the reader of the output, such as head, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except BaseException:
            if stop.number is None:  # otherwise, a library replaced Stopped with this error
                raise
        # Free the objects that the error holds: torch would abort if they were freed at shutdown.
        gc.collect()
        if stop.number is not None:
            _say_stopped(stop.number, how_to_continue)
            return 128 + stop.number
    if message is not None:
        say("Error: ", message)
    return 0 if message is None else 1


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this process, such as `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115  open until exit
        elif hasattr(stream, "reconfigure"):  # characters that the terminal cannot show are escaped
            stream.reconfigure(errors="backslashreplace")


def _attempt(work: Callable[[], None], explain: Callable[[Exception], str | None]) -> str | None:
    """Do the work; return a message if it fails with an error that the user can fix."""
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        return message
    return None


def say(title: str, message: str) -> None:
    """Print a message to the user, with a title in red."""
    from vodet.screen import Screen

    with suppress(OSError):  # the terminal may be gone
        Screen(stderr=True).say(title, message)


def is_started_by_another() -> bool:
    """Return whether Lightning started this process from the first process of a DDP run."""
    environment = os.environ
    return environment.get("LOCAL_RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" not in environment


def _say_stopped(number: signal.Signals, how_to_continue: Callable[[], str]) -> None:
    if is_started_by_another():
        # If this process ended first, Lightning would kill the process that started it.
        time.sleep(_SECONDS_AFTER_STOP)
    elif os.environ.get("RANK", "0") == os.environ.get("SLURM_PROCID", "0") == "0":
        say(f"Stopped by {number.name}. ", how_to_continue())


def _end_with(parent: int) -> None:
    """End this process when its parent ends, even while this process waits for others.

    Args:
        parent: Process id of the parent.
    """
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
