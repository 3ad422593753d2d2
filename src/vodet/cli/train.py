"""vodet-train: trains a detector from a config."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from filelock import FileLock
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from vodet.augmented_stream import stream_factory
from vodet.cli.run_folder import (
    RunRecord,
    check_empty,
    check_resumable,
    claimed,
    find_checkpoint,
)
from vodet.cli.trainer import build_trainer, explained
from vodet.data.clips.datamodule import ClipDataModule
from vodet.data.frames.resize import OriginalSize
from vodet.detector import VideoDetector
from vodet.errors import ConfigError
from vodet.evaluation.measures import Measures
from vodet.metrics.protocols import HEADLINES, LOWER_IS_BETTER
from vodet.screen import Screen
from vodet.streaming import StreamingDetector
from vodet.tasks.build import build_detector
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.init_from import InitReport, init_from


def train(config: DictConfig) -> None:
    """Train the detector that a config describes.

    Raises:
        ConfigError: If settings contradict each other, or the folder of the run is in use.
        OutputError: If a file cannot be written.
        TrainingError: If the training cannot continue.
    """
    checkpoint = find_checkpoint(config)
    changes = check_resumable(config, checkpoint) if checkpoint else None
    folder = Path(config.run_dir)
    L.seed_everything(config.seed, workers=True, verbose=False)
    set_precision(config.matmul_precision)
    data, task = build(config)
    record = RunRecord(config, changes)
    trainer = build_trainer(config, record)
    report = begin(config, task.detector) if checkpoint is None else None
    is_writing = trainer.is_global_zero and not config.trainer.fast_dev_run
    with explained(folder), in_run_folder(folder, is_new=checkpoint is None, is_writing=is_writing):
        if trainer.is_global_zero and report is not None:
            Screen(soft_wrap=True).print(str(report))
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if trainer.is_global_zero:
            if not record.has_begun:
                print_nothing_left(trainer)
            print_summary(trainer, folder, config.evaluation.best_by)


@contextmanager
def in_run_folder(folder: Path, *, is_new: bool, is_writing: bool) -> Iterator[None]:
    """Within this context, the folder of a run is locked against other training processes.

    Args:
        folder: The folder of the run.
        is_new: Whether the run is new; a new run must not overwrite another run.
        is_writing: Whether this process writes to the folder; the other processes do not lock it.

    Raises:
        ConfigError: If another process is training in the folder, or a new run would overwrite
            another run.
    """
    if not is_writing:
        yield
        return
    with claimed(folder):
        if is_new:
            check_empty(folder)
        yield


def begin(config: DictConfig, detector: VideoDetector) -> InitReport | None:
    """Load the weights that ``init_from`` names and return a report; return None if it is not set.

    Raises:
        ConfigError: If frozen parts would have random weights.
        CheckpointError: If the weights cannot be read or do not fit; see `init_from`.
    """
    if config.init_from is not None:
        return init_from(detector, config.init_from)
    parts = [part for part in detector.frozen if not _is_pretrained(detector, part)]
    if parts:
        msg = (
            f"model.frozen freezes {', '.join(parts)}, but their weights are random: set "
            "init_from=CHECKPOINT with a checkpoint that has these parts."
        )
        raise ConfigError(msg)
    return None


def _is_pretrained(detector: VideoDetector, part: str) -> bool:
    """Return whether a part of the detector may have pretrained weights.

    This is the case for parts of the backbone, and if the part or a module that contains it has a
    true attribute ``is_pretrained``.
    """
    modules, names = dict(detector.named_modules()), part.split(".")
    inside = [".".join(names[: depth + 1]) for depth in range(len(names))]
    says_so = any(getattr(modules[name], "is_pretrained", False) for name in inside)
    return names[0] == "backbone" or says_so


def set_precision(name: str) -> None:
    """Set the precision of float32 matrix products on GPUs.

    Args:
        name: ``highest``, ``high`` or ``medium``.

    Raises:
        ConfigError: If the name is unknown; torch would only warn.
    """
    known = ("highest", "high", "medium")
    if name not in known:
        msg = f"matmul_precision must be one of {', '.join(known)}; found {name!r}."
        raise ConfigError(msg)
    torch.set_float32_matmul_precision(name)


def build(config: DictConfig) -> tuple[ClipDataModule, VideoDetectionTask]:
    """Build the data module, and the task, whose detector has the classes of the data.

    Raises:
        ConfigError: If a protocol does not exist, or no protocol has the metric ``best_by``.
    """
    measures = measures_of(config.evaluation)
    stream = stream_factory(**config.evaluation.test_time_augmentation)
    prepare(config)
    data: ClipDataModule = instantiate(config.data)
    if stream is not StreamingDetector:  # each view resizes the frames itself
        data.resize = OriginalSize()
    check_best_by(data, measures, config.evaluation.best_by)
    detector = build_detector(config.model, data.class_names)
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    task = VideoDetectionTask(
        detector,
        optimizer=instantiate(config.optimizer),
        schedule=instantiate(config.scheduler),
        config=resolved,
        compile_encoder=config.compile_encoder,
        measures=measures,
        stream=stream,
        best_by=config.evaluation.best_by,
        seed=config.seed,
    )
    return data, task


def measures_of(evaluation: Mapping[str, Any]) -> Measures:
    """Return the metrics chosen in the config group ``evaluation``.

    Raises:
        ConfigError: If a protocol or linking does not exist, or the threshold is not a number.
    """
    threshold = evaluation["stability"]["score_threshold"]
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not is_number or math.isnan(threshold):
        msg = f"evaluation.stability.score_threshold must be a number, found {threshold}."
        raise ConfigError(msg)
    names = evaluation["protocols"]
    protocols = names if isinstance(names, list | ListConfig) else [names]
    linking = str(evaluation["tubelet_linking"])
    return Measures([str(name) for name in protocols], linking, float(threshold))


def check_best_by(data: ClipDataModule, measures: Measures, best_by: str) -> None:
    """Check before the training that evaluations will compute the metric ``best_by``.

    Args:
        data: The data module.
        measures: The metrics of an evaluation.
        best_by: Name of the metric that selects the best checkpoint.

    Raises:
        ConfigError: If no protocol has the metric, or lower values of the metric are better.
    """
    if data.val is None:
        return
    headline = best_by.partition("@")[0].removeprefix(f"{measures.tubelet_linking}/")
    names = measures.names(data.val_index.ground_truth())
    if best_by not in names or headline in LOWER_IS_BETTER:
        usable = [key for name in measures.by_name for key in HEADLINES[name]]
        msg = (
            f"evaluation.best_by must be a metric of evaluation.protocols "
            f"({', '.join(measures.by_name)}) for which higher is better; found {best_by!r}. "
            f"Valid metrics: {', '.join(key for key in usable if key not in LOWER_IS_BETTER)}."
        )
        raise ConfigError(msg)


def prepare(config: DictConfig) -> None:
    """Call the function that ``prepare_data`` configures, in one process at a time."""
    if config.prepare_data is not None:
        root = Path(config.data_dir)
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".prepare.lock"):
            instantiate(config.prepare_data)


def print_nothing_left(trainer: L.Trainer) -> None:
    """Print why no training step was taken."""
    Screen(soft_wrap=True).print(
        f"Nothing was left to train: the run is at epoch {trainer.current_epoch} and step "
        f"{trainer.global_step}, with trainer.max_epochs={trainer.max_epochs} and "
        f"trainer.max_steps={trainer.max_steps}. Set a higher number to continue."
    )


def print_summary(trainer: L.Trainer, folder: Path, best_by: str) -> None:
    """Print the folder of the run, its files and the next command."""
    console = Screen(soft_wrap=True)
    score = trainer.callback_metrics.get(f"val/{best_by}")
    if score is not None:
        name = "COCO AP" if best_by == "map" else best_by
        console.print(f"{name} of the last epoch: {float(score):.3f}")
    if not folder.is_dir():  # trainer.fast_dev_run
        return
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    console.print(f"The run is in {folder}: {', '.join(names)}")
    if (folder / "best.ckpt").is_file():
        console.print(f"Next: vodet-eval ckpt={folder / 'best.ckpt'}")
