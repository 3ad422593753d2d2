"""vodet-eval: evaluates a checkpoint or saved predictions on whole annotated videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from vodet.augmented_stream import stream_factory
from vodet.cli.app import config_dir
from vodet.cli.eval_report import (
    REPORT,
    Recorder,
    check_report,
    compare,
    detections_file,
    output_folder,
    write_record,
)
from vodet.cli.train import measures_of
from vodet.cli.trainer import build_trainer, explained
from vodet.data.annotations.source import Source
from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.clips.datamodule import ClipDataModule
from vodet.data.frames.resize import OriginalSize
from vodet.errors import CheckpointError, ConfigError
from vodet.evaluation.measures import Measures
from vodet.evaluation.report.analysis import EvaluatedData, Run
from vodet.evaluation.report.page import write_report
from vodet.files import replacing
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.results_file import read_predictions
from vodet.metrics.table import coco_table, protocols_table
from vodet.screen import Screen
from vodet.streaming import StreamFactory, StreamingDetector
from vodet.tasks.checkpoint import CARD_KEY, load, read_checkpoint
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.report import PredictionsFile, json_text


@dataclass(frozen=True)
class Evaluated:
    """The outcome of an evaluation.

    Args:
        result: The metrics by name.
        data: The data set.
        predictions: The detections before tubelet linking.
    """

    result: dict[str, float]
    data: EvaluatedData
    predictions: DetectionTable


def evaluate(config: DictConfig) -> None:
    """Evaluate a checkpoint or saved predictions, print the metrics and write ``eval.json``.

    With ``report``, also write ``report.html``. With ``compare``, only write a report that compares
    earlier evaluations.

    Raises:
        ConfigError: If a protocol or a tubelet linking does not exist.
    """
    measures, stream = chosen(config, {})  # fail before reading any file
    check_report(config)
    if config.compare:
        compare(config, measures)
        return
    if config.ckpt:
        trained = read_checkpoint(config.ckpt)[CARD_KEY]["config"] or {}
        measures, stream = chosen_by_training(config, trained)
        evaluated = evaluate_checkpoint(config, trained, measures, stream)
    else:
        evaluated = evaluate_predictions(config, measures, stream)
    if evaluated is None:  # only the first process has the result
        return
    folder = output_folder(config)
    with explained(folder), replacing(folder / "eval.json") as partial:
        partial.write_text(json_text(evaluated.result))
    screen = Screen()
    linkings = [] if measures.tubelet_linking == "none" else [measures.tubelet_linking]
    for table in result_tables(list(measures.by_name), linkings, evaluated.result, screen):
        screen.print(table)
    screen.print(f"Written: {folder / 'eval.json'}", soft_wrap=True)
    if config.report:
        run = Run(str(config.ckpt or config.predictions), evaluated.predictions, evaluated.result)
        with explained(folder):
            write_report(folder / REPORT, evaluated.data, [run], measures)
            write_record(folder, detections_file(config), evaluated.data)
        screen.print(f"Written: {folder / REPORT}", soft_wrap=True)


def chosen(config: DictConfig, trained: dict[str, Any]) -> tuple[Measures, StreamFactory]:
    """Return the metrics and the stream factory that the settings choose.

    A setting that is null has the same value as in training.

    Args:
        config: The config of the evaluation.
        trained: The config of the training, from the checkpoint; empty without a checkpoint.

    Raises:
        ConfigError: If a protocol, a tubelet linking or a test-time augmentation does not exist.
    """
    evaluation = plain(OmegaConf.load(config_dir() / "evaluation" / "coco.yaml"))
    for values in (trained.get("evaluation"), plain(config.evaluation)):
        evaluation = overlaid(evaluation, values)
    return measures_of(evaluation), stream_factory(**evaluation["test_time_augmentation"])


def chosen_by_training(
    config: DictConfig, trained: dict[str, Any]
) -> tuple[Measures, StreamFactory]:
    """Call `chosen` with the config of a checkpoint, which may be malformed.

    Raises:
        CheckpointError: If the values in the config of the checkpoint cannot be used.
    """
    try:
        return chosen(config, trained)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        msg = (
            f"The checkpoint {config.ckpt} has unusable values in config.evaluation. Use a "
            f"checkpoint written by vodet-train. ({reason})"
        )
        raise CheckpointError(msg) from error


def plain(config: Any) -> Any:
    """Convert a config to dicts and lists."""
    return OmegaConf.to_container(config, resolve=True)


def overlaid(below: dict[str, Any], above: Any) -> Any:
    """Return the mapping ``below``, updated with the values of ``above`` that are not null.

    Keys that ``below`` does not have are ignored. Both are plain mappings and not OmegaConf, so
    interpolations in the config of a checkpoint are not resolved.
    """
    if not isinstance(above, dict | None):
        return above  # not a mapping: its use raises an error
    above = above or {}
    result = below | {key: above[key] for key in below if above.get(key) is not None}
    groups = {key: value for key, value in below.items() if isinstance(value, dict)}
    return result | {key: overlaid(value, above.get(key)) for key, value in groups.items()}


def result_tables(
    protocols: Sequence[str], linkings: Sequence[str], result: Mapping[str, float], screen: Screen
) -> list[Table]:
    """Return the tables that show the results.

    If COCO is the only protocol, its table shows all COCO metrics. Several protocols share one
    table if it fits on the screen. Otherwise, each protocol has a table.

    Args:
        protocols: Names of the evaluated protocols, such as ``coco``.
        linkings: Names of the evaluated tubelet linkings.
        result: The metrics by name.
        screen: The console, for its width.
    """
    if protocols == ["coco"]:
        return [coco_table(result, linkings)]
    together = protocols_table(protocols, result, linkings)
    unlimited = screen.options.update(width=10_000)
    if screen.measure(together, options=unlimited).maximum <= screen.width:
        return [together]
    return [protocols_table([name], result, linkings) for name in protocols]


def evaluate_predictions(
    config: DictConfig, measures: Measures, stream: StreamFactory
) -> Evaluated:
    """Evaluate the detections in the COCO results file ``predictions``, without a detector.

    Raises:
        ConfigError: If ``predictions`` or ``data.annotations`` is not set, or test-time
            augmentation is set.
    """
    if stream is not StreamingDetector:
        msg = (
            "evaluation.test_time_augmentation needs a detector, found only saved predictions. Set "
            "ckpt=FILE, or do not set evaluation.test_time_augmentation."
        )
        raise ConfigError(msg)
    if not config.predictions or not config.data.annotations:
        msg = (
            "Expected ckpt=FILE, or predictions=FILE and data.annotations=FILE to evaluate saved "
            f"predictions; found ckpt={config.ckpt}, predictions={config.predictions}, "
            f"data.annotations={config.data.annotations}."
        )
        raise ConfigError(msg)
    index = read_st_coco(config.data.annotations)
    data = EvaluatedData(index, index.ground_truth(), config.data.images)
    predictions = read_predictions(config.predictions, data.ground_truth)
    return Evaluated(measures(data.ground_truth, predictions), data, predictions)


def evaluate_checkpoint(
    config: DictConfig, trained: dict[str, Any], measures: Measures, stream: StreamFactory
) -> Evaluated | None:
    """Run the detector of a checkpoint on all videos, and return the metrics and the detections.

    Only the first process returns them; the others return None. If ``predictions`` or ``report`` is
    set, the detections before tubelet linking are written to a file.

    Args:
        config: The config of the evaluation.
        trained: The config of the training, from the checkpoint.
        measures: The metrics to compute.
        stream: Builds the stream that runs the detector.
    """
    window = {
        f"window.{key}": config.window[key]
        for key in ("past", "future", "frame_stride")
        if config.window[key] is not None
    }
    detector = load(config.ckpt, trusted=config.trusted, overrides=window)
    val = source(config.data, trained)
    data = ClipDataModule(
        train=None,
        val=val,
        class_names=detector.class_names,
        window=detector.window,
        resize=detector.resize if stream is StreamingDetector else OriginalSize(),
        chunk_size=config.data.chunk_size,
        num_workers=config.data.num_workers,
    )
    file = detections_file(config)
    trainer = build_trainer(config, *([PredictionsFile(file)] if file else []))
    recorder = Recorder(measures)
    task = VideoDetectionTask(detector, measures=recorder, stream=stream)
    with explained(output_folder(config)):
        trainer.validate(task, datamodule=data, verbose=False)
    if not trainer.is_global_zero or task.result is None or recorder.last is None:
        return None
    ground_truth, predictions = recorder.last
    evaluated = EvaluatedData(data.val_index, ground_truth, val.images, data.exif)
    return Evaluated(task.result, evaluated, predictions)


def source(data: DictConfig, trained: dict[str, Any]) -> Source:
    """Return the evaluation data: the configured data, or the validation data of the training.

    Args:
        data: The config group ``data`` of the evaluation.
        trained: The config of the training, from the checkpoint.

    Raises:
        ConfigError: If no data are configured here or in the training, or if annotations are
            configured without images.
    """
    known = trained_source(trained)
    annotations = data.annotations or known.get("annotations")
    images = data.images or (known.get("images") if not data.annotations else None)
    if data.annotations and not images:
        msg = (
            f"Expected data.images=FOLDER in addition to data.annotations={annotations}: the "
            "folder to which the file names in the annotations are relative."
        )
        raise ConfigError(msg)
    if not annotations or not images:
        msg = (
            "Expected data.annotations=FILE and data.images=FOLDER, because the checkpoint does "
            "not name evaluation data; found "
            f"data.annotations={annotations}, data.images={images}."
        )
        raise ConfigError(msg)
    if not data.images and "://" in images:
        msg = (
            f"The checkpoint names images at a URL, {images!r}. vodet does not open URLs that a "
            "checkpoint names. If you trust the URL, set data.images=URL and data.annotations=FILE."
        )
        raise ConfigError(msg)
    return Source(annotations=annotations, images=images)


def trained_source(trained: dict[str, Any]) -> dict[str, str]:
    """Return the string values of ``data.val`` in the config of a training run, by key."""
    node: Any = trained
    for key in ("data", "val"):
        node = node.get(key) if isinstance(node, dict) else None
    values = node.items() if isinstance(node, dict) else ()
    return {key: value for key, value in values if isinstance(value, str)}
