"""Validation by Lightning's trainer: loaders, frames, and which checkpoint is the best."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim import SGD
from torch.utils.data import DataLoader

from cli.processes import finish, start
from evaluation.found import chunks_of, data_of, detector, write_found
from vodet.data.annotations.source import Source
from vodet.data.clips.video_chunks import VideoChunkDataset
from vodet.errors import ConfigError, DataError
from vodet.evaluation.evaluator import Evaluator
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.run_checkpoint import BestCheckpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_found(tmp_path_factory.mktemp("validation") / "set")


def trainer_of(tmp_path: Path, *callbacks: Callback, **options: Any) -> L.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "max_epochs": 1,
        "enable_model_summary": False, "default_root_dir": tmp_path, "callbacks": list(callbacks),
        "limit_train_batches": 1, "enable_checkpointing": bool(callbacks),
    }  # fmt: skip
    return L.Trainer(**settings | options)


def task_of(**options: Any) -> VideoDetectionTask:
    return VideoDetectionTask(detector().train(), optimizer=partial(SGD, lr=0.0), **options)


def test_a_validation_gives_the_numbers_of_an_evaluator(source: Source, tmp_path: Path) -> None:
    expected = Evaluator(detector(), data_of(source)).run()
    task = task_of()
    data = data_of(source)
    for arguments in ({"datamodule": data}, {"dataloaders": data.val_dataloader()}):
        (logged,) = trainer_of(tmp_path).validate(task, **arguments, verbose=False)
        assert task.result == pytest.approx(expected, nan_ok=True, abs=0)
        assert {name.removeprefix("val/") for name in logged} == set(expected)
    assert expected["map"] > 0


def test_training_with_loaders_of_ones_own(source: Source, tmp_path: Path) -> None:
    data = data_of(source, train=source)
    task = task_of()
    trainer = trainer_of(tmp_path, num_sanity_val_steps=0)
    trainer.fit(task, data.train_dataloader(), data.val_dataloader())
    # The weights stay, the running statistics do not.
    expected = Evaluator(task.detector, data).run()
    assert task.result == pytest.approx(expected, nan_ok=True, abs=0)
    # After fit(), other data have their own annotations.
    short = chunks_of(source, chunk_size=2)
    trainer.validate(task, DataLoader(short, batch_size=None), verbose=False)
    assert task.evaluator is not None
    assert task.evaluator.loader.dataset is short
    assert task.result == pytest.approx(expected, nan_ok=True, abs=1e-6)


def test_one_validation_loader(source: Source, tmp_path: Path) -> None:
    loader = data_of(source).val_dataloader()
    trainer_of(tmp_path).validate(task_of(), [loader], verbose=False)
    with pytest.raises(RuntimeError, match="multiple `val_dataloader`"):
        trainer_of(tmp_path).validate(task_of(), [loader, loader], verbose=False)


@pytest.mark.parametrize("limit", [{"limit_val_batches": 2}, {"limit_val_batches": 0.7}])
def test_a_limited_validation_is_of_the_frames_that_were_seen(
    limit: dict[str, Any], source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = data_of(source, chunk_size=4)
    with caplog.at_level(logging.WARNING, "vodet"):
        task = task_of()
        trainer_of(tmp_path, **limit).validate(task, data, verbose=False)
    texts = [record.getMessage() for record in caplog.records if record.name.startswith("vodet")]
    (text,) = texts
    assert "8 of 10 annotated frames" in text
    assert task.result is not None
    assert 0 < task.result["map"] < 1


def test_fast_dev_run_and_sanity_check(source: Source, tmp_path: Path) -> None:
    data = data_of(source, train=source)
    trainer_of(tmp_path, fast_dev_run=True).fit(task_of(), data)
    task = task_of()
    trainer_of(tmp_path, num_sanity_val_steps=1).fit(task, data)
    assert task.result == pytest.approx(Evaluator(task.detector, data).run(), nan_ok=True, abs=0)


class Lossy(VideoChunkDataset):
    """Says that it has one chunk less."""

    def __len__(self) -> int:
        return super().__len__() - 1


def test_a_frame_that_was_never_processed_is_an_error(source: Source, tmp_path: Path) -> None:
    whole = chunks_of(source)
    lossy = Lossy(whole.reader.index, source.images)
    loader = DataLoader(lossy, batch_size=None)
    with pytest.raises(DataError, match=r"found 2 frames .* image id \d+ in video"):
        trainer_of(tmp_path).validate(task_of(), loader, verbose=False)


@pytest.mark.parametrize("call", ["fit", "fit, own loaders", "validate", "validate, own loader"])
def test_a_trainer_that_divides_the_data_again_is_refused(
    call: str, source: Source, tmp_path: Path
) -> None:
    data = data_of(source, train=source)
    calls: dict[str, Callable[[L.Trainer], Any]] = {
        "fit": lambda trainer: trainer.fit(task_of(), data),
        "fit, own loaders": lambda trainer: trainer.fit(
            task_of(), data.train_dataloader(), data.val_dataloader()
        ),
        "validate": lambda trainer: trainer.validate(task_of(), data),
        "validate, own loader": lambda trainer: trainer.validate(task_of(), data.val_dataloader()),
    }
    sanity = 1 if call == "fit" else 0  # so that either loader is the first to be refused
    with mock.patch.dict(os.environ):  # the trainer leaves its address there
        trainer = trainer_of(tmp_path, strategy="ddp", devices=1, num_sanity_val_steps=sanity)
        with pytest.raises(ConfigError, match=r"L\.Trainer\(use_distributed_sampler=False"):
            calls[call](trainer)
        torch.distributed.destroy_process_group()


SCRIPT = """
import json, sys
import lightning as L
from evaluation.found import data_of, detector
from vodet.data.annotations.source import Source
from vodet.tasks.detection import VideoDetectionTask

annotations, images, sampler = sys.argv[1:]
loader = data_of(Source(annotations, images)).val_dataloader()
options = {} if sampler == "lightning" else {"use_distributed_sampler": False}
trainer = L.Trainer(accelerator="cpu", strategy="ddp", devices=2, logger=False, **options)
task = VideoDetectionTask(detector())
trainer.validate(task, loader, verbose=False)
if trainer.is_global_zero:
    print("numbers:", json.dumps(task.result))
"""


@pytest.mark.slow
def test_two_processes_with_a_loader_made_before(source: Source, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = [sys.executable, "script.py", source.annotations, source.images]
    (ended,) = finish([start(*arguments, "vodet", folder=tmp_path)])
    assert ended.code == 0, ended.errors
    (line,) = [line for line in ended.output.splitlines() if line.startswith("numbers: ")]
    expected = Evaluator(detector(), data_of(source)).run()
    found = json.loads(line.removeprefix("numbers: "))
    assert found == pytest.approx(expected, nan_ok=True, abs=0)
    (refused,) = finish([start(*arguments, "lightning", folder=tmp_path)])
    assert refused.code != 0
    assert "use_distributed_sampler=False" in refused.errors


class Scripted(VideoDetectionTask):
    """An evaluation has the next of these numbers."""

    def __init__(self, *numbers: float) -> None:
        left = iter(numbers)
        detector_ = detector().train()
        super().__init__(
            detector_, optimizer=partial(SGD, lr=0.0), measures=lambda *_: {"map": next(left)}
        )


@pytest.mark.parametrize(
    ("numbers", "best"),
    [
        ((float("nan"), 0.2, float("nan")), 1),
        ((0.3, float("nan"), 0.2), 0),
        ((0.1, float("nan"), 0.2), 2),
        ((float("nan"), float("nan"), float("nan")), None),
    ],
)
def test_the_best_checkpoint_is_never_chosen_by_nan(
    numbers: tuple[float, ...], best: int | None, source: Source, tmp_path: Path
) -> None:
    checkpoint = BestCheckpoint(tmp_path, "best", monitor="val/map", mode="max")
    trainer = trainer_of(tmp_path, checkpoint, max_epochs=3, num_sanity_val_steps=0)
    trainer.fit(Scripted(*numbers), data_of(source, train=source))
    assert (tmp_path / "best.ckpt").is_file() == (best is not None)
    if best is not None:
        saved = torch.load(tmp_path / "best.ckpt", weights_only=True)
        assert saved["epoch"] == best
        assert float(checkpoint.best_model_score) == pytest.approx(numbers[best])
    else:
        assert checkpoint.best_model_score is None


def test_a_moved_run_keeps_its_best_checkpoint(source: Source, tmp_path: Path) -> None:
    before, now = tmp_path / "before", tmp_path / "now"

    def fit(folder: Path, number: float, max_epochs: int, resumed: Path | None = None) -> None:
        checkpoint = BestCheckpoint(folder, "best", monitor="val/map", mode="max")
        trainer = trainer_of(folder, checkpoint, max_epochs=max_epochs, num_sanity_val_steps=0)
        data = data_of(source, train=source)
        trainer.fit(Scripted(number), data, ckpt_path=resumed, weights_only=True)
        trainer.save_checkpoint(folder / "last.ckpt")

    fit(before, 0.3, 1)
    before.rename(now)
    best = (now / "best.ckpt").read_bytes()
    fit(now, 0.2, 2, now / "last.ckpt")
    assert (now / "best.ckpt").read_bytes() == best
    assert not (now / "best-v1.ckpt").exists()
    assert not before.exists()
