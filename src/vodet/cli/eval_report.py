"""Reports of vodet-eval: records what was evaluated, and compares evaluations of the same data."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from omegaconf import DictConfig, OmegaConf

from vodet.cli.trainer import explained
from vodet.data.annotations.st_coco import read_st_coco
from vodet.errors import ConfigError, DataError
from vodet.evaluation.measures import Measures
from vodet.evaluation.report.analysis import EvaluatedData, Run
from vodet.evaluation.report.page import write_report
from vodet.files import replacing
from vodet.json_files import decode_json, read_json
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.results_file import read_predictions
from vodet.screen import Screen
from vodet.structures import GroundTruth

REPORT = "report.html"

_DETECTIONS = "detections.json.gz"
_RECORD = "evaluated.json"


class Record(msgspec.Struct):
    """What was evaluated, for a later comparison.

    Args:
        predictions: The detections, relative to the folder of the record or absolute.
        annotations: The ST-COCO file.
        images: The image root; None if it is not known.
    """

    predictions: str
    annotations: str
    images: str | None = None


class Recorder:
    """Computes metrics and remembers from what.

    Args:
        measures: The metrics to compute.
    """

    def __init__(self, measures: Measures) -> None:
        self._measures = measures
        self.last: tuple[GroundTruth, DetectionTable] | None = None

    def __call__(self, ground_truth: GroundTruth, predictions: DetectionTable) -> dict[str, float]:
        """Return the metrics."""
        self.last = ground_truth, predictions
        return self._measures(ground_truth, predictions)


def check_report(config: DictConfig) -> None:
    """Check the settings of reports.

    Raises:
        ConfigError: If ``report`` is not true or false, or ``compare`` is not a list of two or more
            different evaluations, is used together with ``ckpt`` or ``predictions``, or has no
            ``output``.
    """
    if not isinstance(config.report, bool):
        msg = f"report must be true or false, found {config.report!r}."
        raise ConfigError(msg)
    if config.compare is None:
        return
    entries = OmegaConf.to_object(config.compare) if OmegaConf.is_list(config.compare) else None
    if not isinstance(entries, list) or len({*map(str, entries)}) < max(2, len(entries)):
        msg = (
            "compare must be a list of two or more different evaluations, such as "
            f"compare=[runs/a,runs/b]; found {config.compare}."
        )
        raise ConfigError(msg)
    if config.ckpt or config.predictions:
        msg = (
            "compare reads the saved detections of earlier evaluations; found also "
            f"ckpt={config.ckpt}, predictions={config.predictions}. Evaluate the checkpoint first, "
            "with report=true."
        )
        raise ConfigError(msg)
    if not config.output:
        msg = f"compare needs output=FOLDER, in which it writes {REPORT}."
        raise ConfigError(msg)


def output_folder(config: DictConfig) -> Path:
    """Return the folder for ``eval.json`` and the report.

    This is ``output``, or by default the folder of the checkpoint or of the saved predictions.
    """
    return Path(config.output or Path(config.ckpt or config.predictions).parent)


def detections_file(config: DictConfig) -> Path | None:
    """Return the file of the detections; None if they are not saved."""
    if config.predictions:
        return Path(config.predictions)
    return output_folder(config) / _DETECTIONS if config.report else None


def write_record(folder: Path, predictions: Path | None, data: EvaluatedData) -> None:
    """Write what was evaluated to ``evaluated.json``, so that ``compare=[FOLDER,...]`` finds it."""
    if predictions is None:
        return
    is_inside = predictions.absolute().parent == folder.absolute()
    record = Record(
        predictions.name if is_inside else str(predictions.absolute()),
        str(Path(data.ground_truth.source).absolute()),
        data.images and _absolute(data.images),
    )
    with replacing(folder / _RECORD) as partial:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(record)))


def _absolute(images: str) -> str:
    return images if "://" in images else str(Path(images).absolute())


def compare(config: DictConfig, measures: Measures) -> None:
    """Write a report that compares earlier evaluations of the same data.

    Raises:
        ConfigError: If the annotations are not known or differ.
        DataError: If an evaluation has no saved detections, or they do not fit the annotations.
    """
    places = [Path(str(entry)) for entry in config.compare]
    records = [_record(place) for place in places]
    annotations = config.data.annotations or _common_annotations(places, records)
    index = read_st_coco(annotations)
    data = EvaluatedData(index, index.ground_truth(), config.data.images or _images(records))
    runs = []
    for name, record in zip(_names(places), records, strict=True):
        predictions = read_predictions(record.predictions, data.ground_truth)
        runs.append(Run(name, predictions, measures(data.ground_truth, predictions)))
    path = Path(config.output) / REPORT
    with explained(path.parent):
        write_report(path, data, runs, measures)
    Screen().print(f"Written: {path}", soft_wrap=True)


def _record(place: Path) -> Record:
    """Return what was evaluated, given the folder of an evaluation or a file of detections."""
    if not place.is_dir():
        return Record(str(place), "")
    path = place / _RECORD
    if not path.is_file():
        msg = (
            f"Expected {path}, which an evaluation with report=true writes, found no such file. "
            f"Evaluate again with vodet-eval ckpt=CHECKPOINT report=true output={place}, or "
            "compare files of saved detections: compare=[a.json.gz,b.json.gz] "
            "data.annotations=FILE."
        )
        raise DataError(msg)
    try:
        record = decode_json(read_json(path, "the record of an evaluation"), Record, path)
    except msgspec.ValidationError as error:
        msg = (
            f"{path}: expected the record of an evaluation, found {error}. Evaluate again with "
            "report=true."
        )
        raise DataError(msg) from error
    return Record(str(place / record.predictions), record.annotations, record.images)


def _common_annotations(places: list[Path], records: list[Record]) -> str:
    named = dict(zip(places, (record.annotations for record in records), strict=True))
    found = {annotations for annotations in named.values() if annotations}
    if len(found) == 1:
        return found.pop()
    texts = ", ".join(f"{place}: {own or 'not known'}" for place, own in named.items())
    msg = (
        "Expected evaluations of one annotation file, found "
        f"{texts}. Set data.annotations=FILE if the annotations are the same."
    )
    raise ConfigError(msg)


def _images(records: list[Record]) -> str | None:
    """Return the image root that a record names; no URL, because a record is not trusted."""
    return next((own.images for own in records if own.images and "://" not in own.images), None)


def _names(places: list[Path]) -> list[str]:
    """Return a short name for each evaluation: its path without the common folders."""
    paths = [place.absolute() for place in places]
    common = os.path.commonpath(paths)
    return [os.path.relpath(path, common) for path in paths]
