"""Lightning's own switches, and what goes wrong around its trainer."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from cli.conftest import TINY, Command
from cli.processes import finish, run, script, start

SHORT = (*TINY, "trainer.max_epochs=1", "trainer.log_every_n_steps=1")
ALL = {"best.ckpt", "last.ckpt", "config.yaml", "metrics.json", "curves.png", "csv"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        (["trainer.enable_progress_bar=false"], ALL),
        (["trainer.enable_checkpointing=false"], ALL - {"best.ckpt", "last.ckpt"}),
        (["trainer.logger=false"], ALL - {"csv"}),
        (["logger=none"], ALL - {"csv"}),
        (["~callbacks", "trainer.enable_checkpointing=false"], {"config.yaml", "csv"}),
        (["trainer.fast_dev_run=true"], set()),
        (["trainer.limit_train_batches=1", "trainer.limit_val_batches=0"], ALL - {"best.ckpt"}),
        (["trainer.max_epochs=-1", "trainer.max_steps=2"], ALL - {"best.ckpt"}),
        (["trainer.detect_anomaly=true", "trainer.max_time=00:01:00:00"], ALL),
    ],
)
def test_switches(
    settings: list[str], left: set[str], inside: Path, tmp_path: Path, command: Command
) -> None:
    arguments = [a for a in SHORT if settings != ["logger=none"] or "logger." not in a]
    command("train", *arguments, "scheduler=constant", *settings, f"run_dir={tmp_path}/run")
    assert names(tmp_path / "run") == left


def test_evaluations_within_an_epoch(inside: Path, tmp_path: Path, command: Command) -> None:
    command("train", *SHORT, "trainer.val_check_interval=1", f"run_dir={tmp_path}/run")
    with (tmp_path / "run/csv/version_0/metrics.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["step"] for row in rows if row["val/map"]] == ["0", "1", "2"]


def test_the_learning_rate_is_logged_once(inside: Path, tmp_path: Path, command: Command) -> None:
    settings = ["optimizer.decay_norms_and_biases=false", "scheduler.warmup_steps=10"]
    settings += ["optimizer.lr=1e-3"]
    command("train", *SHORT, *settings, f"run_dir={tmp_path}/run")
    with (tmp_path / "run/csv/version_0/metrics.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [name for name in rows[0] if name.startswith("lr")] == ["lr/rest"]
    rates = [float(row["lr/rest"]) for row in rows if row["lr/rest"]]
    assert rates == pytest.approx([0.0001, 0.00019, 0.00028])


def test_early_stopping_by_the_metric_of_the_best_checkpoint(
    inside: Path, tmp_path: Path, command: Command
) -> None:
    stop = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer.lr=0"]
    command("train", *TINY, *stop, "trainer.max_epochs=5", f"run_dir={tmp_path}/run")
    assert json.loads((tmp_path / "run/metrics.json").read_text())["epochs"] == 2


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_whose_package_is_missing_names_the_extra(
    name: str, inside: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(SystemExit, match="1"):
        command("train", *SHORT, f"logger={name}", f"run_dir={tmp_path}/run")
    message = capsys.readouterr().err
    assert f"logger.{name}" in message
    assert f"pip install 'vodet[{name}]'" in message


class KillWorker(Callback):
    """Kills a worker of a data loader, as a system without memory does."""

    def kill(self, *_args: Any) -> None:
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    on_train_batch_end = on_validation_batch_end = kill


@pytest.mark.parametrize("name", ["train", "eval"])
def test_a_killed_worker(name: str, trained: Path, inside: Path, tmp_path: Path) -> None:
    kill = "+callbacks.kill._target_=cli.test_trainer.KillWorker"
    arguments = {
        "train": [*TINY, f"run_dir={tmp_path}/run", "trainer.max_epochs=50"],
        "eval": [f"ckpt={trained}/last.ckpt", "trainer.accelerator=cpu", f"output={tmp_path}"],
    }[name]
    settings = [*arguments, kill, "data.num_workers=1", "data.chunk_size=1"]
    (ended,) = finish([start(script(f"vodet-{name}"), *settings, folder=inside)])
    assert ended.code == 1
    assert "Traceback" not in ended.errors
    assert "memory" in ended.errors
    assert "data.num_workers" in ended.errors


def test_a_full_disk_leaves_one_error_and_no_part_of_a_file(inside: Path, tmp_path: Path) -> None:
    limited = 'export PYTHONDONTWRITEBYTECODE=1; ulimit -f 20; exec "$0" "$@"'  # KiB
    settings = [script("vodet-train"), *TINY, f"run_dir={tmp_path}/run"]
    (ended,) = finish([start("bash", "-c", limited, *settings, folder=inside)])
    assert ended.code == 1
    assert "Traceback" not in ended.errors
    assert "best.ckpt" in ended.errors
    assert names(tmp_path / "run") <= {"config.yaml", "csv"}


def test_an_evaluation_that_cannot_be_written(
    trained: Path,
    inside: Path,
    tmp_path: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("eval.json", "found.json"):
        folder = tmp_path / name.removesuffix(".json")
        (folder / name / "folder").mkdir(parents=True)
        arguments = [f"ckpt={trained}/last.ckpt", f"output={folder}", "trainer=cpu"]
        with pytest.raises(SystemExit, match="1"):
            command("eval", *arguments, "data.num_workers=0", f"predictions={folder}/found.json")
        message = capsys.readouterr().err
        assert message.startswith("Error: ")
        assert name in message
        assert not list(folder.glob(".*.partial"))


def test_a_log_file_has_plain_lines(inside: Path, tmp_path: Path) -> None:
    settings = [a for a in TINY if "progress" not in a]
    ended = run(script("vodet-train"), *settings, f"run_dir={tmp_path}/run", folder=inside)
    assert "\x1b" not in ended.output + ended.errors
    lines = ended.output.splitlines()
    assert lines[0].startswith(f"Training in {tmp_path}/run: 12 clips, 6 classes")
    assert [line[:14] for line in lines if " done: " in line] == [
        "Epoch 1/2 done",
        "Epoch 2/2 done",
    ]
    assert all(re.search(r"val/map \d", line) for line in lines if " done: " in line)


def test_precision_that_boxes_do_not_survive(
    inside: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        command("train", *SHORT, "trainer.precision=bf16-true", f"run_dir={tmp_path}/run")
    message = capsys.readouterr().err
    assert "bf16-true" in message
    assert "32-true, bf16-mixed, 16-mixed" in message
    assert not (tmp_path / "run").exists()
