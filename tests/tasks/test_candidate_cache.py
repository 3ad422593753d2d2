from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import albumentations
import lightning as L
import pytest
import torch
from torch.optim import SGD

from cli.processes import finish, start
from tiny import tiny_detector, tiny_one_stage, tiny_two_stage
from tiny_detr import tiny_detr
from vodet.data.annotations.source import Source
from vodet.data.clips.datamodule import ClipDataModule
from vodet.data.clips.sampling import History, TemporalDropout
from vodet.data.frames.resize import Letterbox, Resize
from vodet.data.generated.synthetic import SyntheticConfig, generate
from vodet.detector import VideoDetector
from vodet.errors import ConfigError, DataError, FrameError, OutputError
from vodet.fusion.none import NoFusion
from vodet.structures import Window
from vodet.tasks.candidate_cache import open_cache
from vodet.tasks.detection import VideoDetectionTask

WINDOW = Window(past=1, future=1)
NAMES = ("disk", "square", "triangle", "star", "ring", "cross")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    root = tmp_path_factory.mktemp("cached") / "set"
    generate(root, SyntheticConfig(train_videos=2, val_videos=1, frames_per_video=6, size=64))
    return Source(str(root / "train.json"), str(root))


def data_of(source: Source, cache: Path | bool, **options: Any) -> ClipDataModule:
    settings: dict[str, Any] = {
        "train": source,
        "window": WINDOW,
        "batch_size": 2,
        "num_workers": 0,
        "temporal_dropout": TemporalDropout(past=1, future=0),
        "history": History(windows=2),
        "chunk_size": 5,
        "pin_memory": False,
        "candidate_cache": str(cache) if isinstance(cache, Path) else cache,
    }
    return ClipDataModule(**settings | options)


def frozen(detector: VideoDetector) -> VideoDetector:
    """The detector in training mode, with a frozen base."""
    detector.frozen = detector.base_parts
    return detector.train()


def losses_of(
    detector: VideoDetector, data: ClipDataModule, precision: Any = "32-true"
) -> list[float]:
    """The losses of the first steps of a training."""
    losses: list[float] = []

    class Task(VideoDetectionTask):
        def training_step(self, batch: Any) -> torch.Tensor:
            loss = super().training_step(batch)
            losses.append(loss.item())
            return loss

    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, limit_train_batches=3, limit_val_batches=0, logger=False,
        precision=precision,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Task(detector, optimizer=partial(SGD, lr=0.01), seed=3), datamodule=data)
    return losses


def names_of(source: Source) -> tuple[str, ...]:
    return tuple(
        entry["name"] for entry in json.loads(Path(source.annotations).read_text())["categories"]
    )


BUILDERS: dict[str, Callable[..., VideoDetector]] = {
    "two_stage": tiny_two_stage,
    "one_stage": tiny_one_stage,
    "detr": tiny_detr,
}


def build(head: str, fusion: str, source: Source, **options: Any) -> VideoDetector:
    return frozen(BUILDERS[head](fusion, WINDOW, class_names=names_of(source), **options))


@pytest.mark.parametrize(
    ("head", "fusion"),
    [
        ("two_stage", "selsa"),
        ("two_stage", "long_term"),
        ("two_stage", "max"),
        ("two_stage", "sltnet"),
        ("one_stage", "yolov"),
        ("one_stage", "long_term"),
        pytest.param(
            "detr",
            "query_attention",
            marks=pytest.mark.skipif(not find_spec("transformers"), reason="needs transformers"),
        ),
    ],
)
def test_losses_are_the_same_with_a_cache(
    head: str, fusion: str, source: Source, tmp_path: Path
) -> None:
    expected = losses_of(build(head, fusion, source), data_of(source, False))
    cached = losses_of(build(head, fusion, source), data_of(source, tmp_path))
    assert len(expected) == 6
    assert len(set(expected)) == 6
    assert cached == pytest.approx(expected, rel=1e-5)
