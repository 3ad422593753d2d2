"""The commands as users start them: in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    """What a process has left: its exit code and what it printed."""

    code: int
    output: str
    errors: str


def script(name: str) -> str:
    """The path of a console script of this environment."""
    return str(Path(sysconfig.get_path("scripts"), name))


def start(*command: str, folder: Path) -> subprocess.Popen[str]:
    """Start a command in a folder, with callbacks of the tests within reach of its config.

    It leads a process group, to be killed as one, and has as many threads as this process: with
    another number the last bit of a sum may differ.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"VODET_DATA", "PL_GLOBAL_SEED", "MASTER_ADDR", "MASTER_PORT"}
    }
    path = os.pathsep.join([str(TESTS), *filter(None, [environment.get("PYTHONPATH")])])
    environment |= {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": path}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A background job of a shell that is not interactive ignores SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        text=True,
        start_new_session=True,
    )


def finish(processes: Sequence[subprocess.Popen[str]], seconds: float = 120) -> list[Ended]:
    """Wait for processes; after so many seconds, or if the test is cut short, kill their groups."""
    try:
        printed = [process.communicate(timeout=seconds) for process in processes]
        return [
            Ended(process.returncode, *texts)
            for process, texts in zip(processes, printed, strict=True)
        ]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def run(*command: str, folder: Path) -> Ended:
    """Run a command that must succeed."""
    (ended,) = finish([start(*command, folder=folder)])
    assert ended.code == 0, ended.errors
    return ended
