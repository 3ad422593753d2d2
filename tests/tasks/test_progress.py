from __future__ import annotations

import io
import pty
import re
import sys
from functools import partial
from pathlib import Path

import lightning as L
import pytest
from torch.optim import SGD

from evaluation.found import data_of, detector, write_found
from vodet.data.annotations.source import Source
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.progress import EpochBar, ProgressLines, progress


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_found(tmp_path_factory.mktemp("progress") / "set")


def trainer_of(folder: Path, bar: L.Callback, **options: object) -> L.Trainer:
    return L.Trainer(
        **{
            "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 2,
            "enable_model_summary": False, "default_root_dir": folder, "callbacks": [bar],
            "num_sanity_val_steps": 0, "use_distributed_sampler": False,
        } | options
    )  # fmt: skip


def lines_of(
    source: Source, folder: Path, out: pytest.CaptureFixture[str], seconds: float, **options: object
) -> list[str]:
    task = VideoDetectionTask(detector().train(), optimizer=partial(SGD, lr=0.0))
    trainer = trainer_of(folder, ProgressLines(seconds), **options)
    out.readouterr()
    trainer.fit(task, data_of(source, train=source))
    return out.readouterr().out.splitlines()


def test_lines_name_what_is_trained_and_each_epoch(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *epochs = lines_of(source, tmp_path, capsys, seconds=60)
    data = data_of(source, train=source)
    assert str(tmp_path) in first
    assert f"{len(data.train_dataloader().dataset)} clip" in first
    assert all(name in first for name in data.class_names)
    weights = sum(w.numel() for w in detector().parameters() if w.requires_grad)
    assert f"{weights:,} trained parameters" in first
    assert [line.split(" done")[0] for line in epochs] == ["Epoch 1/2", "Epoch 2/2"]
    for line in epochs:
        assert re.search(r"loss \d", line)
        assert re.search(r"val/map [01]\.\d", line)
        assert line.endswith(" left")
    assert epochs[-1].endswith(" 0 s left")


def test_lines_within_an_epoch_and_an_evaluation(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = lines_of(source, tmp_path, capsys, seconds=0, max_epochs=1)
    assert "\x1b" not in "".join(lines)
    steps = [line for line in lines if line.startswith("Epoch 1/1, batch")]
    assert [line.split(":")[0] for line in steps] == ["Epoch 1/1, batch 1/1"]
    assert all(re.search(r"loss \d.* batches/s, step \d", line) for line in steps)
    assert any(re.match(r"Evaluation: chunk 1/\d", line) for line in lines)


def test_without_a_known_end_no_time_is_left(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"max_epochs": -1, "max_time": "00:00:00:01"}
    lines = lines_of(source, tmp_path, capsys, seconds=0, **options)
    assert lines[1].startswith("Epoch 1, batch 1/")
    assert not any("left" in line for line in lines)


def test_the_mean_loss_does_not_depend_on_accumulation(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = []
    for batches in (1, 2):
        lines = lines_of(
            source, tmp_path, capsys, 60, max_epochs=1, accumulate_grad_batches=batches
        )
        losses.append(re.search(r"loss ([\d.]+)", lines[-1]).group(1))
    assert losses[0] == losses[1]


def test_only_the_first_process_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines()
    lines.disable()
    lines.print("nothing")
    assert capsys.readouterr().out == ""
    lines.enable()
    lines.print("something")
    assert capsys.readouterr().out == "something\n"


def test_a_bar_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert isinstance(progress(), ProgressLines)
    terminal, process_side = pty.openpty()
    with open(process_side, "w") as out, open(terminal):  # noqa: PTH123  descriptors
        monkeypatch.setattr(sys, "stdout", out)
        assert isinstance(progress(), EpochBar)


def test_the_bar_counts_epochs_from_one(source: Source, tmp_path: Path) -> None:
    bar = EpochBar()
    trainer = trainer_of(tmp_path, bar, limit_train_batches=1, limit_val_batches=0)
    task = VideoDetectionTask(detector().train(), optimizer=partial(SGD, lr=0.0))
    trainer.fit(task, data_of(source, train=source))
    assert bar.train_progress_bar.description.strip() == "Epoch 2/2"
