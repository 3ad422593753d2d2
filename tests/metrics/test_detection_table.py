from __future__ import annotations

import gzip
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vodet.errors import DataError
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.results_file import read_predictions, write_predictions
from vodet.structures import NO_CATEGORY, Detections, GroundTruth


def ground_truth(frames: int = 30) -> GroundTruth:
    return GroundTruth(
        class_names=("car", "dog"),
        category_ids=np.array([3, 8]),
        image_ids=np.arange(frames)[::-1] + 100,
        sizes=np.full((frames, 2), 4000, np.int32),
        videos=np.zeros(frames, np.int64),
        frame_numbers=np.arange(frames, dtype=np.int32),
        box_starts=np.arange(frames + 1),
        boxes=np.tile(np.array([[10, 10, 60, 80]], np.float32), (frames, 1)),
        labels=np.arange(frames) % 2,
        track_ids=np.full(frames, -1, np.int32),
        areas=np.full(frames, 3500, np.float32),
        iscrowd=np.zeros(frames, bool),
    )


def predictions(number: int = 45_000) -> DetectionTable:
    """Coordinates of all magnitudes, boxes close to the annotated one among them."""
    rng = np.random.default_rng(0)
    origins = 10 ** rng.uniform(-8, 3.5, (number, 2))
    boxes = np.hstack([origins, origins + 10 ** rng.uniform(-8, 3.5, (number, 2))])
    boxes[::50] = rng.normal([10, 10, 60, 80], 3, (len(boxes[::50]), 4))
    return DetectionTable(
        image_ids=rng.integers(100, 130, number),
        boxes=boxes.astype(np.float32),
        scores=rng.random(number, np.float32),
        labels=rng.integers(0, 2, number),
    )


@pytest.mark.parametrize("name", ["predictions.json", "predictions.json.gz"])
def test_what_is_read_is_what_was_written(tmp_path: Path, name: str) -> None:
    truth, written = ground_truth(), predictions()
    write_predictions(tmp_path / name, truth, written)
    read = read_predictions(tmp_path / name, truth)
    for column in ("image_ids", "boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(read, column), getattr(written, column))
    np.testing.assert_equal(
        coco_average_precision(truth, read), coco_average_precision(truth, written)
    )
    assert coco_average_precision(truth, read)["map"] > 0.001
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_format_is_that_of_coco_results(tmp_path: Path) -> None:
    found = Detections(
        boxes=torch.tensor([[0.1, 2, 10.1, 4]]),
        scores=torch.tensor([0.7]),
        labels=torch.tensor([1]),
    )
    write_predictions(tmp_path / "a.json", ground_truth(), DetectionTable.of_frames([105], [found]))
    (entry,) = json.loads((tmp_path / "a.json").read_text())
    assert entry.pop("bbox") == pytest.approx([0.1, 2, 10, 2])
    assert entry == {"image_id": 105, "category_id": 8, "score": 0.7}


def test_detections_of_classes_that_the_annotations_lack_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of_file = ground_truth()
    truth = replace(
        of_file, class_names=("zebra", "car", "dog"), category_ids=np.array([NO_CATEGORY, 3, 8])
    )
    found = DetectionTable(
        image_ids=np.array([100, 101, 102]),
        boxes=np.array([[1, 2, 3, 4]] * 3, np.float32),
        scores=np.array([0.5, 0.25, 0.75], np.float32),
        labels=np.array([1, 0, 2]),
    )
    write_predictions(tmp_path / "a.json", truth, found)

    read = read_predictions(tmp_path / "a.json", of_file)
    assert read.image_ids.tolist() == [100, 102]
    assert [of_file.class_names[label] for label in read.labels] == ["car", "dog"]
    (record,) = caplog.records
    message = record.getMessage()
    assert "a.json: left out 1 of 3 detections" in message
    assert "zebra" in message
    assert "car" not in message


def test_no_predictions(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a.json", ground_truth(), DetectionTable.of_frames([], []))
    assert (tmp_path / "a.json").read_text() == "[]"
    assert len(read_predictions(tmp_path / "a.json", ground_truth())) == 0


def test_same_predictions_same_bytes(tmp_path: Path) -> None:
    for name in ("a.json.gz", "b.json.gz"):
        write_predictions(tmp_path / name, ground_truth(), predictions(100))
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


def test_failed_writing_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    unknown_label = predictions(10)
    unknown_label.labels[9] = 2
    with pytest.raises(IndexError):
        write_predictions(tmp_path / "a.json", ground_truth(), unknown_label)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


ENTRY = {"image_id": 105, "category_id": 8, "bbox": [1, 2, 3, 4], "score": 0.5}


def read_text(tmp_path: Path, text: str) -> DetectionTable:
    (tmp_path / "a.json").write_text(text)
    return read_predictions(tmp_path / "a.json", ground_truth())


FRAME, CATEGORY, FINITE, SIZE = "image id", "category id", "finite", "negative"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"image_id": 99}, FRAME),
        ({"category_id": 4}, CATEGORY),
        ({"bbox": [1, 2, 1e300, 4]}, FINITE),
        ({"bbox": [1, math.nan, 3, 4]}, FINITE),
        ({"bbox": [-math.inf, 2, 3, 4]}, FINITE),
        ({"score": -1e39}, FINITE),
        ({"score": math.nan}, FINITE),
        ({"score": math.inf}, FINITE),
        ({"bbox": [1, 2, -1, 4]}, SIZE),
        ({"bbox": [1, 2, 3, -0.5]}, SIZE),
    ],
)
def test_entries_that_do_not_fit_are_counted(
    tmp_path: Path, change: dict[str, object], fault: str
) -> None:
    faulty = ENTRY | change
    with pytest.raises(DataError) as caught:
        read_text(tmp_path, json.dumps([ENTRY, faulty, ENTRY, faulty]))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"The predictions in {tmp_path / 'a.json'} cannot be evaluated."
    first = {name: tuple(map(float, v)) if name == "bbox" else v for name, v in faulty.items()}
    assert re.search(rf"2 of 4 entries .*{fault}.* entry 1 {re.escape(str(first))}$", lines[1])
    assert len(lines[2:]) == (fault in (FRAME, CATEGORY))  # hints at other annotations


DELETED = object()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("bbox", [1, 2, 3], "Expected `array` of length 4, got 3 - at `$.bbox`"),
        ("bbox", [1, 2, 3, None], "Expected `float`, got `null` - at `$.bbox[3]`"),
        ("bbox", DELETED, "Object missing required field `bbox`"),
        ("score", "high", "Expected `float`, got `str` - at `$.score`"),
        ("image_id", 2**70, "Expected `int` <= 9223372036854775807 - at `$.image_id`"),
    ],
)
def test_entries_of_another_form_are_counted(
    tmp_path: Path, field: str, value: object, expected: str
) -> None:
    faulty = {name: old for name, old in ENTRY.items() if name != field}
    if value is not DELETED:
        faulty[field] = value
    with pytest.raises(DataError) as caught:
        read_text(tmp_path, json.dumps([ENTRY, faulty, ENTRY, faulty | {"score": math.nan}, 5]))
    found = str(caught.value).partition("; found: ")[2]
    number = 2 if field == "score" else 3  # NaN is a number
    assert found.startswith(f"{number} of 5 entries ")
    assert found.endswith(f" entry 1 {faulty}: {expected}")


def test_long_entries_are_shortened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found: 'x{196}\.\.\.$"):
        read_text(tmp_path, json.dumps("x" * 1000))


def test_several_faults_are_named_together(tmp_path: Path) -> None:
    faulty = ENTRY | {"image_id": 1, "category_id": 1}
    with pytest.raises(DataError, match=r"(?s)2 of 2 entries.*image id.*2 of 2 .*category id"):
        read_text(tmp_path, json.dumps([faulty, faulty]))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "a.json is not valid JSON"),
        ('[{"image_id"', "a.json is not valid JSON"),
        ("\udcff", "a.json is not valid JSON: not UTF-8 at byte 0"),
        ("{}", "Expected .*a.json to be a COCO results file"),
        ('[{"image_id": 1}]', "Expected .*a.json to be a COCO results file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=found):
        read_predictions(tmp_path / "a.json", ground_truth())


def test_missing_and_truncated_files(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"a COCO results file \(.json or .json.gz\) at .*none\.json"
    ):
        read_predictions(tmp_path / "none.json", ground_truth())
    packed = gzip.compress(json.dumps([ENTRY] * 50).encode())
    for damaged, message in (
        (packed[:30], r"Cannot read .*a\.json\.gz.*a COCO results file"),
        (packed[:15] + b"xx" + packed[17:], r"Cannot read .*a\.json\.gz.*a COCO results file"),
        (b"neither gzip nor JSON", r"a\.json\.gz is not valid JSON"),
    ):
        (tmp_path / "a.json.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=message):
            read_predictions(tmp_path / "a.json.gz", ground_truth())
