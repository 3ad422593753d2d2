"""Writes and reads COCO results files, so that detections can be evaluated without the model.

A file is a JSON list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``,
plain (``.json``) or gzipped (``.json.gz``). Reading a file returns exactly the float32 boxes and
scores that were written: x, y and score are written with as many decimals as their float32 values
need, and width and height as float64.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

import msgspec
import numpy as np

from vodet.errors import DataError
from vodet.files import replacing
from vodet.id_lookup import positions_in
from vodet.json_files import UNDECODABLE, parse_json, read_json, shown
from vodet.metrics.detection_table import DetectionTable
from vodet.structures import NO_CATEGORY, GroundTruth

_log = logging.getLogger(__name__)

_CHUNK = 20_000  # rows encoded at once, to limit the memory used
_SHOWN = 200  # characters of a faulty entry in a message
_UNKNOWN_FRAME = "an image id that belongs to no annotated frame"
_UNKNOWN_CATEGORY = "a category id that the annotations lack"
_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Entry(msgspec.Struct, gc=False):
    image_id: _Id
    category_id: _Id
    bbox: tuple[float, float, float, float]
    score: float


def write_predictions(
    path: str | Path, ground_truth: GroundTruth, predictions: DetectionTable
) -> None:
    """Write predictions to a COCO results file.

    The file has a temporary name until it is complete. Classes that are missing from the annotation
    file have no category id, so detections of these classes are left out and a warning gives their
    number.

    Args:
        path: The file; it is gzipped if the name ends in ``.gz``.
        ground_truth: The annotations, which contain the category ids of the labels.
        predictions: Detections in original pixels, clipped to the images.
    """
    predictions = _of_known_classes(path, ground_truth, predictions)
    with replacing(path) as partial, _open(partial, Path(path).suffix == ".gz") as file:
        for start in range(0, len(predictions), _CHUNK):
            rows = predictions[np.arange(start, min(start + _CHUNK, len(predictions)))]
            file.write(b"," if start else b"[")
            file.write(msgspec.json.encode(_entries(rows, ground_truth.category_ids))[1:-1])
        file.write(b"]" if len(predictions) else b"[]")


def _of_known_classes(
    path: str | Path, ground_truth: GroundTruth, predictions: DetectionTable
) -> DetectionTable:
    is_known = ground_truth.category_ids[predictions.labels] != NO_CATEGORY
    if not is_known.all():
        lacking = np.flatnonzero(ground_truth.category_ids == NO_CATEGORY)
        names = ", ".join(ground_truth.class_names[label] for label in lacking)
        message = "%s: left out %d of %d detections, whose classes are not in the annotations: %s."
        _log.warning(message, path, np.count_nonzero(~is_known), len(is_known), names)
    return predictions[is_known]


def _entries(predictions: DetectionTable, category_ids: np.ndarray) -> list[_Entry]:
    corners = predictions.boxes.astype(np.float64)
    origins = shortest_decimals(predictions.boxes[:, :2])
    bboxes = np.concatenate([origins, corners[:, 2:] - corners[:, :2]], axis=1)
    rows = zip(
        predictions.image_ids.tolist(),
        category_ids[predictions.labels].tolist(),
        map(tuple, bboxes.tolist()),
        shortest_decimals(predictions.scores).tolist(),
        strict=True,
    )
    return [_Entry(*row) for row in rows]


def shortest_decimals(values: np.ndarray) -> np.ndarray:
    """Return for each float32 value the number with the fewest decimals that rounds to it.

    The numbers are float64. A value that needs more than twelve decimals keeps all its decimals.
    """
    found = values.astype(np.float64)
    exact = found.copy()
    for decimals in range(12, -1, -1):
        rounded = exact.round(decimals)
        np.copyto(found, rounded, where=rounded.astype(np.float32) == values)
    return found


@contextmanager
def _open(path: Path, is_packed: bool) -> Iterator[IO[bytes] | gzip.GzipFile]:
    with path.open("wb") as file:
        if is_packed:  # without a time stamp, so the same predictions give the same bytes
            with gzip.GzipFile("", "wb", compresslevel=5, fileobj=file, mtime=0) as packed:
                yield packed
        else:
            yield file


def read_predictions(path: str | Path, ground_truth: GroundTruth) -> DetectionTable:
    """Read the predictions for a data set from a COCO results file.

    Args:
        path: The file, plain or gzipped.
        ground_truth: The annotations of the data set.

    Raises:
        DataError: If the file is missing, damaged or not a COCO results file. Also if a prediction
            has an image id that is not annotated, a category id that the data set lacks, a box or
            score that is not finite, or a box of negative size; the message counts the predictions
            with each fault and shows the first of them.
    """
    entries = _decode(Path(path))
    corners = np.array([entry.bbox for entry in entries], np.float64).reshape(-1, 4)
    with np.errstate(over="ignore"):  # infinite values are reported below
        boxes = corners.astype(np.float32)
        boxes[:, 2:] = boxes[:, :2].astype(np.float64) + corners[:, 2:]
        scores = np.array([entry.score for entry in entries], np.float64).astype(np.float32)
    image_ids = np.array([entry.image_id for entry in entries], np.int64)
    labels = positions_in(
        ground_truth.category_ids, np.array([entry.category_id for entry in entries], np.int64)
    )
    predictions = DetectionTable(image_ids, boxes, scores, labels)
    _raise_faults(
        Path(path),
        entries,
        {
            _UNKNOWN_FRAME: positions_in(ground_truth.image_ids, image_ids) < 0,
            _UNKNOWN_CATEGORY: labels < 0,
            "a box or score that is not a finite number": ~predictions.is_finite,
            "a box of negative width or height": corners[:, 2:].min(axis=1, initial=0) < 0,
        },
    )
    return predictions


def _decode(path: Path) -> list[_Entry]:
    raw = read_json(path, "a COCO results file (.json or .json.gz)")
    try:
        return msgspec.json.decode(raw, type=list[_Entry])
    except UNDECODABLE:
        return _decode_by_entry(path, parse_json(raw, path))


def _decode_by_entry(path: Path, rows: object) -> list[_Entry]:
    """Decode the entries of a results file one by one; raise an error that counts faulty entries.

    NaN and Infinity, which JSON does not allow, are accepted here, so that `read_predictions` can
    report them.

    Args:
        path: The file, for the message.
        rows: The parsed content of the file.
    """
    if not isinstance(rows, list):
        raise _no_results_file(path, shown(rows, _SHOWN))
    entries, faults = [], []
    for number, row in enumerate(rows):
        try:
            entries.append(msgspec.convert(row, _Entry))
        except msgspec.ValidationError as error:
            faults.append(f"entry {number} {shown(row, _SHOWN)}: {error}")
    if faults:
        found = f"{len(faults)} of {len(rows)} entries that do not fit, the first: {faults[0]}"
        raise _no_results_file(path, found)
    return entries


def _no_results_file(path: Path, found: str) -> DataError:
    return DataError(
        f"Expected {path} to be a COCO results file, a list of objects with image_id, "
        f"category_id, bbox [x, y, width, height] and score; found: {found}"
    )


def _raise_faults(path: Path, entries: list[_Entry], faults: dict[str, np.ndarray]) -> None:
    lines = []
    for fault, is_faulty in faults.items():
        rows = np.flatnonzero(is_faulty)
        if rows.size:
            first = f"entry {rows[0]} {msgspec.to_builtins(entries[rows[0]])}"
            number = f"{rows.size} of {len(entries)}"
            lines.append(f"  {number} entries have {fault}, the first: {first}")
    if lines:
        msg = "\n".join([f"The predictions in {path} cannot be evaluated.", *lines])
        if faults[_UNKNOWN_FRAME].any() or faults[_UNKNOWN_CATEGORY].any():
            msg += "\nWere these predictions made for these annotations?"
        raise DataError(msg)
