from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from metrics.tracked import moving_objects, noisy_detections
from vodet.errors import ConfigError
from vodet.id_lookup import positions_in
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.protocols import HEADLINES, choose_protocols, measure_all
from vodet.metrics.vid import vid_average_precision
from vodet.structures import GroundTruth

ALL = ["coco", "vid", "motion", "track_length", "uavdt", "stability"]


@pytest.fixture(scope="module")
def truth() -> GroundTruth:
    return moving_objects(np.random.default_rng(0), videos=2)


@pytest.fixture(scope="module")
def predictions(truth: GroundTruth) -> DetectionTable:
    return noisy_detections(np.random.default_rng(1), truth)


def test_names_say_the_protocol(truth: GroundTruth, predictions: DetectionTable) -> None:
    result = measure_all(choose_protocols(ALL, 0.6), truth, predictions)
    prefixes = {name.split("/")[0] for name in result if not name.startswith(("map", "mar"))}
    assert prefixes == {*ALL} - {"coco"}
    assert {*HEADLINES} == {*ALL}
    for own in (coco_average_precision, vid_average_precision):
        expected = own(truth, predictions)
        assert {name: result[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert result["stability/score_threshold"] == 0.6


@pytest.mark.parametrize("names", [["coco", "voc"], []])
def test_other_names_are_refused(names: list[str]) -> None:
    with pytest.raises(
        ConfigError, match="of coco, vid, motion, track_length, uavdt, stability; f"
    ):
        choose_protocols(names)


def test_named_twice_is_once() -> None:
    assert list(choose_protocols(["vid", "coco", "vid"])) == ["vid", "coco"]


def test_headlines_by_attribute_are_those_of_the_videos_with_it() -> None:
    rng = np.random.default_rng(2)
    attributes = {"night": [0, 3], "fog": [0, 1, 2, 3], "snow": []}
    truth = moving_objects(rng, videos=4, attributes=attributes)
    predictions = noisy_detections(rng, truth)
    result = measure_all(choose_protocols(ALL), truth, predictions)
    headlines = [key for name in ALL for key in HEADLINES[name]]
    assert {key for key in result if "@" in key} == {
        f"{key}@{attribute}" for key in headlines for attribute in attributes
    }
    for key in headlines:
        assert result[f"{key}@fog"] == pytest.approx(result[key], nan_ok=True)
        assert math.isnan(result[f"{key}@snow"])
    # The two videos at night, as if the others had never been.
    kept = np.isin(truth.videos, [0, 3])
    alone = rebuilt(truth, np.flatnonzero(kept).tolist())
    found = predictions[np.isin(predictions.image_ids, truth.image_ids[kept])]
    expected = measure_all(choose_protocols(ALL), alone, found)
    for key in headlines:
        assert result[f"{key}@night"] == pytest.approx(expected[key], nan_ok=True)
        assert result[f"{key}@night"] != pytest.approx(result[key])


def test_frames_in_any_order_and_frames_that_are_not_annotated(
    truth: GroundTruth, predictions: DetectionTable
) -> None:
    expected = measure_all(choose_protocols(ALL), truth, predictions)
    assert len(np.unique(predictions.scores)) < 0.2 * len(predictions)  # many are equal
    rng = np.random.default_rng(0)
    other_order = rebuilt(truth, rng.permutation(len(truth.image_ids)).tolist())
    result = measure_all(choose_protocols(ALL), other_order, predictions)
    assert result == pytest.approx(expected, nan_ok=True)
    places = rng.permutation(len(truth.image_ids))[
        positions_in(truth.image_ids, predictions.image_ids)
    ]
    mixed = predictions[np.argsort(places, kind="stable")]
    assert measure_all(choose_protocols(ALL), truth, mixed) == pytest.approx(expected, nan_ok=True)
    elsewhere = replace(mixed, image_ids=mixed.image_ids + int(truth.image_ids.max()) + 1)
    more = DetectionTable.cat([elsewhere, mixed])
    assert measure_all(choose_protocols(ALL), truth, more) == pytest.approx(expected, nan_ok=True)


def rebuilt(truth: GroundTruth, frames: list[int]) -> GroundTruth:
    """Take these frames, in this order, and no attributes."""
    boxes = [
        box for frame in frames for box in range(*truth.box_starts[frame : frame + 2].tolist())
    ]
    of_frames = ("image_ids", "sizes", "videos", "frame_numbers")
    of_boxes = ("boxes", "labels", "track_ids", "areas", "iscrowd")
    counts = [truth.box_starts[frame + 1] - truth.box_starts[frame] for frame in frames]
    return GroundTruth(
        truth.class_names,
        truth.category_ids,
        **{name: getattr(truth, name)[frames] for name in of_frames},
        **{name: getattr(truth, name)[boxes] for name in of_boxes},
        box_starts=np.append(0, np.cumsum(counts)),
    )
