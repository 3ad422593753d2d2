"""How a command ends: with what it was doing undone, one message, and a status that says how."""

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
AGAIN = "Nothing half written is left. The same command starts again."

_SECONDS_AFTER_STOP = 15  # that a process waits for the process that started it to end first


class Stopped(BaseException):
    """A signal asks the process to stop. Not an Exception, so that no library handles it."""


class Stop:
    """Which signal, if any, has asked this process to stop."""

    number: signal.Signals | None = None

    def __init__(self) -> None:
        self._process = os.getpid()

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: unwind on the first one, end at once on the second."""
        if os.getpid() != self._process:  # a forked worker, which has inherited the handler
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if self.number is not None:
            os._exit(128 + number)
        self.number = signal.Signals(number)
        raise Stopped(self.number.name)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Make the signals that ask a process to stop raise `Stopped`, once.

    Signals that are ignored, as under nohup, stay ignored.
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


def run_to_the_end(
    work: Callable[[], None],
    explain: Callable[[Exception], str | None],
    how_to_go_on: Callable[[], str],
) -> int:
    """Do the work of a command and return the exit status of the process.

    Args:
        work: What the command does.
        explain: Returns what to tell the user of an error that is theirs to mend, else None.
        how_to_go_on: Returns what to tell the user after a signal has stopped the command.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that the terminal lacks is no error
            stream.reconfigure(errors="backslashreplace")
    if is_started_by_another():
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    message = None
    with stoppable() as stop:
        try:
            message = _attempt(work, explain)
        except BrokenPipeError:  # the reader, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except BaseException:
            if stop.number is None:  # else this is what became of Stopped on its way
                raise
        # What the error held goes now: at the end of the interpreter torch would abort over it.
        gc.collect()
        if stop.number is not None:
            _say_stopped(stop.number, how_to_go_on)
            return 128 + stop.number
    if message is not None:
        say("Error: ", message)
    return 0 if message is None else 1


def _attempt(work: Callable[[], None], explain: Callable[[Exception], str | None]) -> str | None:
    """Do the work; return what to tell the user if it fails by a fault that is theirs to mend."""
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
    """Say whether another process of the same run has started this one, as Lightning's DDP does."""
    environment = os.environ
    return environment.get("LOCAL_RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" not in environment


def _say_stopped(number: signal.Signals, how_to_go_on: Callable[[], str]) -> None:
    if is_started_by_another():
        # Lightning kills the process that started this one if this one ends first.
        time.sleep(_SECONDS_AFTER_STOP)
    elif os.environ.get("RANK", "0") == os.environ.get("SLURM_PROCID", "0") == "0":
        say(f"Stopped by {number.name}. ", how_to_go_on())


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, also while it waits for other processes."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
