"""vodet-train: trains a detector from a config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from filelock import FileLock
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from vodet.augmented_stream import stream_factory
from vodet.data.clips.datamodule import ClipDataModule
from vodet.data.frames.resize import OriginalSize
from vodet.detector import VideoDetector
from vodet.errors import ConfigError
from vodet.evaluation.measures import Measures
from vodet.files import remove_partial
from vodet.metrics.protocols import HEADLINES, LOWER_IS_BETTER
from vodet.screen import Screen
from vodet.streaming import StreamingDetector
from vodet.tasks.build import build_detector
from vodet.tasks.checkpoint import AtomicCheckpointIO
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.init_from import InitReport, init_from
from vodet.tasks.signals import OwnSignalHandler


def train(config: DictConfig) -> None:
    """Train the detector that a config describes."""
    checkpoint = continue_run(config)
    L.seed_everything(config.seed, workers=True, verbose=False)
    set_precision(config.matmul_precision)
    data, task = build(config)
    trainer = build_trainer(config)
    report = begin(config, task.detector) if checkpoint is None else None
    if trainer.is_global_zero and report is not None:
        Screen(soft_wrap=True).print(str(report))
    if trainer.is_global_zero:
        save_config(config)
        remove_partial(config.run_dir)
    trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if trainer.is_global_zero:
        print_summary(trainer, Path(config.run_dir), config.evaluation.best_by)


def continue_run(config: DictConfig) -> Path | None:
    """Find the checkpoint named by ``resume``; the run continues in the folder of the checkpoint.

    Raises:
        ConfigError: If there is no such checkpoint.
    """
    if config.resume is None:
        return None
    checkpoint = Path(config.resume)
    if config.resume == "last":
        runs = Path(config.runs_dir, str(config.name))
        found = [*runs.rglob("last.ckpt"), *Path(config.run_dir).glob("last.ckpt")]
        if not found:
            msg = (
                f"resume=last: expected a run with a last.ckpt in {runs}, found none. The first is "
                "written at the end of the first epoch: start again, without resume."
            )
            raise ConfigError(msg)
        checkpoint = max(found, key=lambda path: path.stat().st_mtime)
    if not checkpoint.is_file():
        msg = f"resume={config.resume}: expected 'last' or a checkpoint, found no such file."
        raise ConfigError(msg)
    config.run_dir = str(checkpoint.parent)
    return checkpoint


def begin(config: DictConfig, detector: VideoDetector) -> InitReport | None:
    """Load the weights named by ``init_from``; return None if it is not set.

    Raises:
        ConfigError: If frozen parts would have random weights.
        CheckpointError: See `init_from`.
    """
    if config.init_from is not None:
        return init_from(detector, config.init_from)
    parts = [part for part in detector.frozen if part.partition(".")[0] != "backbone"]
    if parts:
        msg = (
            f"model.frozen keeps {', '.join(parts)} from learning, but their weights are random: "
            "set init_from=CHECKPOINT, one whose detector has these parts."
        )
        raise ConfigError(msg)
    return None


def set_precision(name: str) -> None:
    """Set the precision of float32 matrix products on GPUs.

    Raises:
        ConfigError: If the name is unknown; torch would only warn.
    """
    known = ("highest", "high", "medium")
    if name not in known:
        msg = f"matmul_precision must be one of {', '.join(known)}; found {name!r}."
        raise ConfigError(msg)
    torch.set_float32_matmul_precision(name)


def build(config: DictConfig) -> tuple[ClipDataModule, VideoDetectionTask]:
    """Build the data module and, for its classes, the detector and its task.

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
    threshold = evaluation["steadiness"]["score_threshold"]
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        msg = f"Expected evaluation.steadiness.score_threshold to be a number, found {threshold}."
        raise ConfigError(msg)
    names = evaluation["protocols"]
    protocols = names if isinstance(names, list | ListConfig) else [names]
    linking = str(evaluation["tubelet_linking"])
    return Measures([str(name) for name in protocols], linking, float(threshold))


def check_best_by(data: ClipDataModule, measures: Measures, best_by: str) -> None:
    """Check, before hours of training, that the metric ``best_by`` will be computed.

    Raises:
        ConfigError: If the protocols have no such metric, or lower values of it are better.
    """
    if data.val is None:
        return
    headline = best_by.partition("@")[0].removeprefix(f"{measures.tubelet_linking}/")
    names = measures.names(data.val_index.ground_truth())
    if best_by not in names or headline in LOWER_IS_BETTER:
        usable = [key for name in measures.by_name for key in HEADLINES[name]]
        msg = (
            "evaluation.best_by must be a number of evaluation.protocols, which are "
            f"{', '.join(measures.by_name)}, and the higher the better; found {best_by!r}. "
            f"Such are {', '.join(key for key in usable if key not in LOWER_IS_BETTER)}."
        )
        raise ConfigError(msg)


def prepare(config: DictConfig) -> None:
    """Create the data set if its config says how, in one process at a time."""
    if config.prepare_data is not None:
        root = Path(config.data_dir)
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".prepare.lock"):
            instantiate(config.prepare_data)


def build_trainer(config: DictConfig, *callbacks: Callback) -> L.Trainer:
    """Build the trainer with the loggers and callbacks of the config and additional callbacks.

    Raises:
        ConfigError: If the trainer cannot be built, such as on a machine without a GPU.
    """
    try:
        trainer: L.Trainer = instantiate(
            config.trainer,
            callbacks=[*built(config.callbacks), *callbacks, OwnSignalHandler()],
            logger=built(config.logger),
            plugins=[AtomicCheckpointIO()],
        )
    except Exception as error:
        reason = error.__cause__ or error
        if not isinstance(reason, MisconfigurationException | ValueError):
            raise
        accelerator, devices = config.trainer.accelerator, config.trainer.devices
        msg = (
            f"The trainer cannot be built: {reason} Asked for: trainer.accelerator={accelerator} "
            f"trainer.devices={devices}; this machine has {torch.cuda.device_count()} GPUs. "
            "trainer=cpu runs anywhere."
        )
        raise ConfigError(msg) from error
    return trainer


def built(configs: DictConfig) -> list[Any]:
    """Build the entries of a config group whose options can be combined; null skips an entry."""
    return [instantiate(config) for config in configs.values() if config is not None]


def save_config(config: DictConfig) -> None:
    """Write the resolved config to the run's folder."""
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "config.yaml", resolve=True)


def print_summary(trainer: L.Trainer, folder: Path, best_by: str) -> None:
    """Print where the output is and the next command."""
    console = Screen(soft_wrap=True)
    score = trainer.callback_metrics.get(f"val/{best_by}")
    if score is not None:
        name = "COCO AP" if best_by == "map" else best_by
        console.print(f"{name} of the last epoch: {float(score):.3f}")
    console.print(f"The run is in {folder}: " + ", ".join(sorted(p.name for p in folder.iterdir())))
    if (folder / "best.ckpt").is_file():
        console.print(f"Next: vodet-eval ckpt={folder / 'best.ckpt'}")
