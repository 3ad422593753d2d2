"""vodet-eval: a checkpoint, or saved predictions, against the annotations of whole videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from vodet.cli.app import run
from vodet.cli.train import build_trainer
from vodet.data.datamodule import ClipDataModule
from vodet.data.dataset import Source
from vodet.data.st_coco import read_st_coco
from vodet.errors import ConfigError
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.results_file import read_predictions
from vodet.metrics.table import coco_table
from vodet.tasks.checkpoint import CARD_KEY, load, read_checkpoint
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.report import PredictionsFile, json_text


def evaluate(config: DictConfig) -> None:
    """Evaluate what a config names, print the table and write ``metrics.json``."""
    result = evaluate_checkpoint(config) if config.ckpt else evaluate_predictions(config)
    if result is None:  # not the first process
        return
    folder = Path(config.output or Path(config.ckpt or config.predictions).parent)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval.json").write_text(json_text(result))
    console = Console()
    console.print(coco_table(result))
    console.print(f"Written: {folder / 'eval.json'}", soft_wrap=True)


def evaluate_predictions(config: DictConfig) -> dict[str, float]:
    """Evaluate a COCO results file, without the model.

    Raises:
        ConfigError: If the file or the annotations are not given.
    """
    if not config.predictions or not config.data.annotations:
        msg = (
            "Expected ckpt=FILE, or predictions=FILE and data.annotations=FILE to evaluate saved "
            f"predictions; found ckpt={config.ckpt}, predictions={config.predictions}, "
            f"data.annotations={config.data.annotations}."
        )
        raise ConfigError(msg)
    ground_truth = read_st_coco(config.data.annotations).ground_truth()
    predictions = read_predictions(config.predictions, ground_truth)
    return coco_average_precision(ground_truth, predictions)


def evaluate_checkpoint(config: DictConfig) -> dict[str, float] | None:
    """Stream the videos through the detector of a checkpoint; None on all but one process."""
    trained = read_checkpoint(config.ckpt)[CARD_KEY]["config"] or {}
    window = {
        f"window.{key}": config.window[key]
        for key in ("past", "future", "frame_stride")
        if config.window[key] is not None
    }
    detector = load(config.ckpt, trusted=config.trusted, overrides=window)
    data = ClipDataModule(
        train=None,
        val=source(config.data, trained),
        class_names=detector.class_names,
        window=detector.window,
        resize=detector.resize,
        chunk_size=config.data.chunk_size,
        num_workers=config.data.num_workers,
    )
    callbacks = [PredictionsFile(Path(config.predictions))] if config.predictions else []
    trainer = build_trainer(config, *callbacks)
    trainer.validate(VideoDetectionTask(detector), datamodule=data, verbose=False)
    if not trainer.is_global_zero:
        return None
    return {
        name.removeprefix("val/"): float(value) for name, value in trainer.callback_metrics.items()
    }


def source(data: DictConfig, trained: dict[str, Any]) -> Source:
    """Return the data to evaluate on: as configured, else as in training.

    Raises:
        ConfigError: If neither says it.
    """
    known = trained.get("data", {}).get("val") or {}
    annotations = data.annotations or known.get("annotations")
    images = data.images or (known.get("images") if not data.annotations else None)
    if not annotations or not images:
        msg = (
            "Expected data.annotations=FILE and data.images=FOLDER, since the checkpoint does not "
            f"say on what to evaluate; found data.annotations={annotations}, data.images={images}."
        )
        raise ConfigError(msg)
    return Source(annotations=annotations, images=images)


def main() -> None:
    """Run the command line."""
    run("eval", evaluate)
