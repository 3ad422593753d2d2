"""vodet-eval: a checkpoint, or saved predictions, against the annotations of whole videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from vodet.cli.app import run
from vodet.cli.streams import stream_factory
from vodet.cli.train import build_trainer
from vodet.data.annotations.source import Source
from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.clips.datamodule import ClipDataModule
from vodet.data.frames.resize import OriginalSize
from vodet.errors import ConfigError, DataError
from vodet.inference.tubelet_linking import check_linking
from vodet.metrics.predictions import Measure, Predictions
from vodet.metrics.protocols import choose_protocols, measure_all
from vodet.metrics.results_file import read_predictions
from vodet.metrics.table import coco_table, protocols_table
from vodet.streaming import StreamFactory, StreamingDetector
from vodet.structures import GroundTruth
from vodet.tasks.checkpoint import CARD_KEY, load, read_checkpoint
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.evaluation import link_tubelets
from vodet.tasks.report import PredictionsFile, json_text


def evaluate(config: DictConfig) -> None:
    """Evaluate what a config names, print a table and write ``eval.json``.

    Raises:
        ConfigError: If it names a protocol or a linking that does not exist.
    """
    check_linking(config.tubelet_linking)
    stream = stream_factory(config.test_time_augmentation)
    protocols = protocols_of(config, {})  # before anything is read
    trained: dict[str, Any] = {}
    if config.ckpt:
        trained = read_checkpoint(config.ckpt)[CARD_KEY]["config"] or {}
        protocols = protocols_of(config, trained)
    measure = partial(measure_linked, protocols, config.tubelet_linking)
    if config.ckpt:
        result = evaluate_checkpoint(config, trained, stream, measure)
    else:
        result = evaluate_predictions(config, stream, measure)
    if result is None:  # not the first process
        return
    folder = Path(config.output or Path(config.ckpt or config.predictions).parent)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval.json").write_text(json_text(result))
    console = Console()
    linkings = [] if config.tubelet_linking == "none" else [config.tubelet_linking]
    for table in result_tables(list(protocols), linkings, result, console):
        console.print(table)
    console.print(f"Written: {folder / 'eval.json'}", soft_wrap=True)


def protocols_of(config: DictConfig, trained: dict[str, Any]) -> dict[str, Measure]:
    """Return the protocols: as configured, else as in training, else COCO's.

    Raises:
        ConfigError: If there is none of a name, or the score threshold is no number.
    """
    names = config.protocols
    if names is None:
        names = (trained.get("data") or {}).get("protocols") or ["coco"]
    threshold = config.steadiness.score_threshold
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        msg = f"Expected steadiness.score_threshold to be a number, found {threshold}."
        raise ConfigError(msg)
    return choose_protocols([names] if isinstance(names, str) else names, float(threshold))


def measure_linked(
    protocols: Mapping[str, Measure],
    linking: str,
    ground_truth: GroundTruth,
    predictions: Predictions,
) -> dict[str, float]:
    """Measure detections as they are, and linked: these numbers start with its name and "/".

    Raises:
        DataError: If detections are to be linked and have scores below 0, as of a foreign file.
    """
    result = measure_all(protocols, ground_truth, predictions)
    if linking == "none":
        return result
    below = np.flatnonzero(predictions.scores < 0)
    if below.size:
        first = predictions.image_ids[below[0]]
        msg = (
            f"tubelet_linking={linking} needs scores from 0, found {below.size} of "
            f"{len(predictions)} below, the first in image id {first}."
        )
        raise DataError(msg)
    linked = link_tubelets(ground_truth, predictions, linking)
    of_linked = measure_all(protocols, ground_truth, linked)
    return result | {f"{linking}/{name}": value for name, value in of_linked.items()}


def result_tables(
    protocols: Sequence[str], linkings: Sequence[str], result: Mapping[str, float], console: Console
) -> list[Table]:
    """Lay out the result: COCO AP in full if it is alone, else side by side if there is room."""
    if protocols == ["coco"]:
        return [coco_table(result, linkings)]
    together = protocols_table(protocols, result, linkings)
    room = console.options.update(width=10_000)
    if console.measure(together, options=room).maximum <= console.width:
        return [together]
    return [protocols_table([name], result, linkings) for name in protocols]


def evaluate_predictions(
    config: DictConfig, stream: StreamFactory, measure: Measure
) -> dict[str, float]:
    """Evaluate a COCO results file, without the model.

    Raises:
        ConfigError: If the file or the annotations are not given, or views of frames are asked for.
    """
    if stream is not StreamingDetector:
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


def evaluate_checkpoint(
    config: DictConfig, trained: dict[str, Any], stream: StreamFactory, measure: Measure
) -> dict[str, float] | None:
    """Stream the videos through the detector of a checkpoint; None on all but one process.

    A file of predictions holds what the detector found, before any linking.
    """
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
    return task.result if trainer.is_global_zero else None


def source(data: DictConfig, trained: dict[str, Any]) -> Source:
    """Return the data to evaluate on: as configured, else as in training.

    Raises:
        ConfigError: If neither says it, or annotations are configured without their images.
    """
    known = trained.get("data", {}).get("val") or {}
    annotations = data.annotations or known.get("annotations")
    images = data.images or (known.get("images") if not data.annotations else None)
    if data.annotations and not images:
        msg = (
            f"Expected data.images=FOLDER beside data.annotations={annotations}: the folder that "
            "the file names in it are relative to."
        )
        raise ConfigError(msg)
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
