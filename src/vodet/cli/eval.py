"""vodet-eval: a checkpoint, or saved predictions, against the annotations of whole videos."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from vodet.cli.app import run
from vodet.cli.streams import stream_factory
from vodet.cli.train import build_trainer
from vodet.data.datamodule import ClipDataModule
from vodet.data.dataset import Source
from vodet.data.resize import OriginalSize
from vodet.data.st_coco import read_st_coco
from vodet.errors import ConfigError
from vodet.inference.tubelet_linking import check_linking
from vodet.metrics.predictions import Measure, Predictions
from vodet.metrics.protocols import choose_protocols, measure_all
from vodet.metrics.results_file import read_predictions
from vodet.metrics.table import coco_table, protocols_table
from vodet.streaming import StreamingDetector
from vodet.structures import GroundTruth
from vodet.tasks.checkpoint import CARD_KEY, load, read_checkpoint
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.evaluation import link_tubelets
from vodet.tasks.report import PredictionsFile, json_text


def evaluate(config: DictConfig) -> None:
    """Evaluate what a config names, print a table and write ``eval.json``."""
    measure = measure_of(config)
    evaluated = evaluate_checkpoint if config.ckpt else evaluate_predictions
    result = evaluated(config, measure)
    if result is None:  # not the first process
        return
    folder = Path(config.output or Path(config.ckpt or config.predictions).parent)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval.json").write_text(json_text(result))
    console = Console()
    for table in result_tables(config, result, console):
        console.print(table)
    console.print(f"Written: {folder / 'eval.json'}", soft_wrap=True)


def measure_of(config: DictConfig) -> Measure:
    """Return what the config asks to compute of the detections of a data set.

    Raises:
        ConfigError: If it names a protocol or a linking that does not exist.
    """
    check_linking(config.tubelet_linking)
    chosen = choose_protocols(protocols_of(config), config.steadiness.score_threshold)
    return partial(_measure, chosen, config.tubelet_linking)


def _measure(
    protocols: Mapping[str, Measure],
    linking: str,
    ground_truth: GroundTruth,
    predictions: Predictions,
) -> dict[str, float]:
    if linking != "none":
        predictions = link_tubelets(ground_truth, predictions, linking)
    return measure_all(protocols, ground_truth, predictions)


def protocols_of(config: DictConfig) -> list[str]:
    """Return the names of the protocols, also where one stands without brackets."""
    names = config.protocols
    return [names] if isinstance(names, str) else list(names or [])


def result_tables(config: DictConfig, result: Mapping[str, float], console: Console) -> list[Table]:
    """Lay out the result: COCO AP in full if it is alone, else side by side if there is room."""
    names = list(dict.fromkeys(protocols_of(config)))
    tables = [coco_table(result) if names == ["coco"] else protocols_table(names, result)]
    room = console.options.update(width=10_000)
    if console.measure(tables[0], options=room).maximum > console.width:
        tables = [protocols_table([name], result) for name in names]
    if config.tubelet_linking == "seq_nms":
        for table in tables:
            table.title = f"{table.title}, detections linked by Seq-NMS"
    return tables


def evaluate_predictions(config: DictConfig, measure: Measure) -> dict[str, float]:
    """Evaluate a COCO results file, without the model.

    Raises:
        ConfigError: If the file or the annotations are not given, or views of frames are asked for.
    """
    if stream_factory(config.test_time_augmentation) is not StreamingDetector:
        msg = "test_time_augmentation needs a detector: ckpt=FILE. Found saved predictions only."
        raise ConfigError(msg)
    if not config.predictions or not config.data.annotations:
        msg = (
            "Expected ckpt=FILE, or predictions=FILE and data.annotations=FILE to evaluate saved "
            f"predictions; found ckpt={config.ckpt}, predictions={config.predictions}, "
            f"data.annotations={config.data.annotations}."
        )
        raise ConfigError(msg)
    ground_truth = read_st_coco(config.data.annotations).ground_truth()
    predictions = read_predictions(config.predictions, ground_truth)
    return measure(ground_truth, predictions)


def evaluate_checkpoint(config: DictConfig, measure: Measure) -> dict[str, float] | None:
    """Stream the videos through the detector of a checkpoint; None on all but one process.

    A file of predictions holds what the detector found, before any linking.
    """
    stream = stream_factory(config.test_time_augmentation)
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
        resize=detector.resize if stream is StreamingDetector else OriginalSize(),
        chunk_size=config.data.chunk_size,
        num_workers=config.data.num_workers,
    )
    callbacks = [PredictionsFile(Path(config.predictions))] if config.predictions else []
    trainer = build_trainer(config, *callbacks)
    task = VideoDetectionTask(detector, measure=measure, stream=stream)
    trainer.validate(task, datamodule=data, verbose=False)
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
