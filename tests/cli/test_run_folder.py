"""A run's folder: one process at a time, one run, whatever is resumed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cli.conftest import TINY, Command
from vodet.cli.run_folder import claimed
from vodet.errors import ConfigError

HOLDER = """
import sys, time
from pathlib import Path
from vodet.cli.run_folder import claimed
with claimed(Path(sys.argv[1])):
    print("claimed", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def refused(inside: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> Callable:
    """Runs a training that must be refused; returns the message."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit, match="1"):
            command("train", *TINY, *arguments)
        message = capsys.readouterr().err
        assert message.startswith("Error: ")
        return message

    return run


@pytest.fixture
def a_run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run of TINY."""
    return shutil.copytree(trained, tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_folder_in_use_is_refused_until_its_process_is_dead(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "claimed\n"
        with pytest.raises(ConfigError) as caught, claimed(tmp_path):
            pass
        for fact in (str(tmp_path), str(holder.pid), socket.gethostname()):
            assert fact in str(caught.value)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (tmp_path / ".lock").is_file()
        with claimed(tmp_path):
            assert str(os.getpid()) in (tmp_path / ".lock").read_text()
        assert list(tmp_path.iterdir()) == []
    finally:
        holder.kill()
        holder.communicate()


def test_a_training_in_a_folder_in_use(refused: Callable, tmp_path: Path) -> None:
    with claimed(tmp_path):
        message = refused(f"run_dir={tmp_path}")
    assert str(os.getpid()) in message
    assert str(tmp_path) in message


def test_a_new_run_does_not_overwrite_another(refused: Callable, a_run: Path) -> None:
    before = contents(a_run)
    message = refused(f"run_dir={a_run}")
    assert "best.ckpt, last.ckpt" in message
    assert f"resume={a_run}/last.ckpt" in message
    assert contents(a_run) == before


def test_a_folder_that_cannot_be_made(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file" in refused(f"run_dir={tmp_path}/file/run")


@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.json", "curves.png", "csv", "best.ckpt", "last.ckpt"]
)
def test_a_file_that_cannot_be_written_is_named(
    name: str, refused: Callable, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if name == "csv":
        (run / name).write_text("a file in the place of a folder")
    else:
        (run / name / "folder").mkdir(parents=True)
    assert name in refused(f"run_dir={run}", "trainer.max_epochs=1")
    assert not list(run.glob(".*.partial"))


def test_a_resumed_run_keeps_its_config_and_records_changes(
    a_run: Path, inside: Path, command: Command
) -> None:
    before = (a_run / "config.yaml").read_bytes()
    command("train", *TINY, f"resume={a_run}/last.ckpt", "trainer.max_epochs=3")
    command(
        "train", *TINY, f"resume={a_run}/last.ckpt", "trainer.max_epochs=4", "data.batch_size=2"
    )
    assert (a_run / "config.yaml").read_bytes() == before
    first, second = yaml.safe_load((a_run / "resumes.yaml").read_text())
    assert first["changes"] == {"trainer.max_epochs": 3}
    assert second["changes"] == {"data.batch_size": 2, "trainer.max_epochs": 4}
    assert (first["epoch"], first["step"]) == (2, 6)
    assert first["checkpoint"] == str(a_run / "last.ckpt")
    assert json.loads((a_run / "metrics.json").read_text())["epochs"] == 4


def test_a_schedule_that_stays_is_told(
    a_run: Path, inside: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vodet"):
        command("train", *TINY, f"resume={a_run}/last.ckpt", "trainer.max_epochs=3")
    (text,) = [r.getMessage() for r in caplog.records if "scheduler" in r.getMessage()]
    assert "scheduler.scheduler.T_max keeps its value 2" in text
    assert "not 3" in text


def test_nothing_left_to_train_is_told(
    a_run: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(a_run)
    command("train", *TINY, f"resume={a_run}/last.ckpt")
    text = capsys.readouterr().out
    assert "Nothing was left to train" in text
    assert "epoch 2 and step 6" in text
    assert "trainer.max_epochs=2" in text
    assert {k: v for k, v in contents(a_run).items() if not k.startswith("csv/version_1")} == before


@pytest.mark.parametrize(
    ("setting", "before", "now"),
    [
        ("model.head.channels=12", "8", "12"),
        ("model/fusion=mean", "vodet.fusion.stf", "vodet.fusion.mean"),
        ("window.past=2", "1", "2"),
        ("optimizer.lr=0.5", "0.002", "0.5"),
        ("optimizer=sgd", "torch.optim.AdamW", "torch.optim.SGD"),
        ("scheduler.warmup_steps=3", "100", "3"),
        ("scheduler.scheduler.T_max=9", "2", "9"),
    ],
)
def test_what_a_run_keeps_is_refused_with_both_values(
    setting: str, before: str, now: str, refused: Callable, a_run: Path
) -> None:
    files = contents(a_run)
    message = refused(f"resume={a_run}/last.ckpt", "trainer.max_epochs=3", setting)
    assert f"{setting.partition('=')[0].replace('/', '.')}" in message
    assert f"{before}" in message
    assert f"{now}" in message
    assert f"init_from={a_run}/last.ckpt" in message
    assert contents(a_run) == files


def test_other_annotations_are_refused_with_both(
    refused: Callable, a_run: Path, inside: Path, tmp_path: Path
) -> None:
    files = contents(a_run)
    document = json.loads((inside / "data/demo/train.json").read_text())
    shortened = document | {"annotations": document["annotations"][:-1]}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(shortened))
    arguments = (f"resume={a_run}/last.ckpt", "trainer.max_epochs=3")
    message = refused(*arguments, f"data.train.annotations={other}")
    count = len(document["annotations"])
    for fact in (str(other), "data/demo/train.json", f"boxes {count},", f"boxes {count - 1},"):
        assert fact in message.replace("\n", " ")
    kept = {name: value for name, value in contents(a_run).items() if name in files}
    assert kept == files


def test_the_same_annotations_elsewhere_are_the_same(
    a_run: Path, inside: Path, tmp_path: Path, command: Command
) -> None:
    moved = shutil.copy(inside / "data/demo/train.json", tmp_path / "moved.json")
    arguments = (f"resume={a_run}/last.ckpt", "trainer.max_epochs=3")
    command("train", *TINY, *arguments, f"data.train.annotations={moved}")
    assert json.loads((a_run / "metrics.json").read_text())["epochs"] == 3


def test_resume_beside_settings_that_contradict_it(refused: Callable, a_run: Path) -> None:
    last = f"resume={a_run}/last.ckpt"
    message = refused(last, f"init_from={a_run}/best.ckpt")
    assert "init_from" in message
    assert "best.ckpt" in message
    message = refused(last, f"run_dir={a_run.parent}/elsewhere")
    assert str(a_run) in message
    assert f"{a_run.parent}/elsewhere" in message
    assert not (a_run.parent / "elsewhere").exists()


def test_the_last_run_of_a_folder_is_that_of_the_folder(
    refused: Callable, a_run: Path, inside: Path, trained: Path
) -> None:
    empty = a_run.parent / "empty"
    message = refused("resume=last", f"run_dir={empty}", f"runs_dir={trained.parent}")
    assert str(empty) in message
