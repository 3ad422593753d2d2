"""A training that is killed and resumed ends as one that was not."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import pytest
from lightning.pytorch.callbacks import Callback

from cli.conftest import TINY, Command
from cli.processes import finish, script, start
from cli.test_train import assert_same_weights
from vodet.tasks.report import read_curves

pytestmark = pytest.mark.slow


def kill(*_args: Any) -> NoReturn:
    """End this process and its workers, which lead a process group, at once and unprepared."""
    os.killpg(os.getpid(), signal.SIGKILL)
    raise AssertionError


class KillAfterStep(Callback):
    """Kills the training when it has made so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_args: Any) -> None:
        if trainer.global_step == self.step:
            kill()


class KillWhileSaving(Callback):
    """Kills the training when a checkpoint is written but not yet in its place."""

    def on_save_checkpoint(self, *_args: Any) -> None:
        os.fsync = kill


class StopAfterStep(Callback):
    """Asks the first process of the training to stop when it has made so many steps."""

    def __init__(self, step: int, signal: int) -> None:
        self.step = step
        self.signal = signal

    def on_train_batch_end(self, trainer: L.Trainer, *_args: Any) -> None:
        if trainer.global_step == self.step and trainer.is_global_zero:
            os.kill(os.getpid(), self.signal)


def test_resumes_after_a_kill_at_any_moment(
    trained: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TINY, "name=killed", "data.num_workers=2", "trainer.log_every_n_steps=1"]

    def train_and_die(*further: str) -> None:
        (ended,) = finish([start(script("vodet-train"), *arguments, *further, folder=inside)])
        assert ended.code == -signal.SIGKILL, ended.errors

    after_step = "+callbacks.kill._target_=cli.test_killed.KillAfterStep"
    train_and_die(after_step, "+callbacks.kill.step=2")  # in the first of two epochs of 3 steps
    with pytest.raises(SystemExit, match="1"):
        command("train", *arguments, "resume=last")
    message = capsys.readouterr().err.replace("\n", " ")
    assert "expected a run with a last.ckpt in runs/killed, found none" in message
    assert "Start again without resume" in message

    run = inside / "runs" / "killed" / "second"
    train_and_die(after_step, "+callbacks.kill.step=5", f"run_dir={run}")
    train_and_die("+callbacks.kill._target_=cli.test_killed.KillWhileSaving", "resume=last")
    assert list(run.glob(".*.partial"))
    command("train", *arguments, "resume=last")

    assert_same_weights(run / "last.ckpt", trained / "last.ckpt")
    names = {"best.ckpt", "last.ckpt", "config.yaml", "metrics.json", "curves.png", "csv"}
    names |= {"resumes.yaml"}
    assert {path.name for path in run.iterdir()} == names
    assert json.loads((run / "metrics.json").read_text())["steps"] == 6
    loss = read_curves(sorted(run.glob("csv/*/metrics.csv")))["train/loss"]
    assert [step for step, _ in loss] == list(range(6))


def wait_for_group(leader: int) -> None:
    """Wait until no process of a group is left, which the last look meets as an error."""
    for _ in range(100):
        os.killpg(leader, 0)
        time.sleep(0.1)


@pytest.mark.parametrize(("devices", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_stops_when_asked_to_and_says_how_to_continue(
    devices: int, number: signal.Signals, inside: Path
) -> None:
    run = inside / "runs" / f"stopped {devices} {number.name}"
    process = start(
        script("vodet-train"),
        *TINY,
        "data.num_workers=1",
        "data.batch_size=1",
        f"run_dir={run}",
        "+callbacks.stop._target_=cli.test_killed.StopAfterStep",
        f"+callbacks.stop.step={12 // devices + 1}",  # in the second epoch
        f"+callbacks.stop.signal={number.value}",
        *(["trainer=ddp", "trainer.devices=2"] if devices > 1 else []),
        folder=inside,
    )
    (ended,) = finish([process])
    assert ended.code == 128 + number, ended.errors
    (line,) = [line for line in ended.errors.splitlines() if number.name in line]
    assert "Traceback" not in ended.errors
    assert str(run) in line
    assert line.endswith("resume=last")
    assert (run / "last.ckpt").is_file()
    assert not list(run.glob(".*.partial"))
    with pytest.raises(ProcessLookupError):
        wait_for_group(process.pid)
