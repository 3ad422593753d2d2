"""However a command ends, it ends in good order, with one message and a status that says how."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vodet.cli import faults
from vodet.errors import DataError

ENDS = """
import os, signal, sys, time
from pathlib import Path
from vodet.cli.ending import AGAIN, run_command
from vodet.cli.faults import explain
from vodet.files import replacing

def work():
    with replacing("result.txt") as partial:
        partial.write_text("half")
        print("ready", flush=True)
        {work}

sys.exit(run_command(work, explain, lambda: AGAIN))
"""
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def started(folder: Path, work: str) -> subprocess.Popen[str]:
    """Starts a command that does some work, or a whole program; returns when it is at work."""
    code = work if "def work" in work else ENDS.format(work=work)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell that is not interactive ignores SIGINT.
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in SIGNALS],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(60)",
        # What a library may make of the exception.
        "exec('try: time.sleep(60)\\nexcept BaseException: raise SystemExit(0)')",
        "exec('try: time.sleep(60)\\nfinally: raise RuntimeError')",
    ],
)
def test_a_signal(number: signal.Signals, work: str, tmp_path: Path) -> None:
    process = started(tmp_path, work)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors.count("\n") == 1
    assert number.name in errors
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_an_error_is_explained(tmp_path: Path) -> None:
    code = ENDS.format(work="raise ValueError").replace("(work, explain,", "(work, pause,")
    code = code.replace("def work", "def pause(error): time.sleep(60)\n\ndef work")
    process = started(tmp_path, code)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert errors.count("\n") == 1


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    before, after = "print(0, flush=True); time.sleep(60)", "print(1, flush=True); time.sleep(60)"
    process = started(tmp_path, f"exec('try: {before}\\nfinally: {after}')")
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130


def test_a_forked_worker_ends_quietly(tmp_path: Path) -> None:
    process = started(tmp_path, "os.fork() or print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout is not None
    os.kill(int(process.stdout.readline()), signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert errors.count("\n") == 1


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    code = ENDS.format(work="signal.raise_signal(signal.SIGHUP)")
    ended = subprocess.run(
        ["nohup", sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False
    )
    assert ended.returncode == 0
    assert (tmp_path / "result.txt").read_text() == "half"


def test_a_process_of_a_run_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = ENDS.format(work="time.sleep(60)")
    parent = (
        "import subprocess, sys, os\n"
        f"p = subprocess.Popen([sys.executable, '-c', {code!r}], stdout=subprocess.PIPE, "
        "env=os.environ | {'LOCAL_RANK': '1'})\n"
        "p.stdout.readline()\nprint(p.pid)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", parent], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    for _ in range(100):
        if not Path(f"/proc/{ended.stdout.strip()}").exists():
            return
        time.sleep(0.1)
    raise AssertionError


@pytest.mark.parametrize(
    ("work", "facts"),
    [
        ("raise DataError('a fault')", ["a fault"]),
        (
            "raise OSError(28, 'No space left on device', '/full/x')",
            ["/full/x", "No space", "Free some space"],
        ),
        ("raise PermissionError(13, 'Permission denied', '/x')", ["/x", "Permission denied"]),
        ("raise MemoryError('Unable to allocate 9 TiB')", ["memory", "9 TiB"]),
        ("raise RuntimeError('can\\'t allocate memory: 5 bytes')", ["memory", "5 bytes"]),
    ],
)
def test_what_a_user_can_mend_is_one_line(work: str, facts: list[str], tmp_path: Path) -> None:
    process = started(tmp_path, f"from vodet.errors import DataError; {work}")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors.startswith("Error: ")
    assert errors.count("\n") == 1
    for fact in facts:
        assert fact in errors
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_the_program_is_shown_in_full(tmp_path: Path) -> None:
    process = started(tmp_path, "exec('try: open(chr(47) + chr(120))\\nexcept OSError: {}[0]')")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" in errors
    assert "KeyError" in errors


def test_the_first_cause_counts() -> None:
    error = RuntimeError("cannot read")
    error.__cause__ = OSError(errno.EACCES, "Permission denied", "a.json")
    assert (faults.explain(error) or "").startswith("a.json: Permission denied")
    error.__cause__.__context__ = DataError("a.json: expected a file")
    assert faults.explain(error) == "a.json: expected a file"


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    code = ENDS.format(work="print('x' * 10**6)")
    shell = f"{sys.executable} -c '{code.replace(chr(39), chr(34))}' | head -1"
    ended = subprocess.run(
        ["bash", "-c", f"{shell}; echo ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines()[-1] == "141"


def test_closed_streams(tmp_path: Path) -> None:
    code = ENDS.format(work="os.write(2, b'at work\\n')")
    command = [sys.executable, "-c", code]
    for closed in (">&-", ">&- 2>&-"):
        result = subprocess.run(
            ["bash", "-c", f'"$@" {closed}', "bash", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (result.returncode, result.stdout) == (0, "")
        assert result.stderr in ("at work\n", "")
        assert (tmp_path / "result.txt").read_text() == "half"
        (tmp_path / "result.txt").unlink()
