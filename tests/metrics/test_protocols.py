from __future__ import annotations

import math

import numpy as np
import pytest
from rich.console import Console

from metrics.tracked import moving_objects, noisy_detections
from vodet.errors import ConfigError
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.predictions import Predictions
from vodet.metrics.protocols import choose_protocols, measure_all
from vodet.metrics.table import protocols_table
from vodet.metrics.vid import vid_average_precision
from vodet.structures import GroundTruth

ALL = ["coco", "vid", "motion", "uavdt", "steadiness"]


@pytest.fixture(scope="module")
def truth() -> GroundTruth:
    return moving_objects(np.random.default_rng(0), videos=2)


@pytest.fixture(scope="module")
def predictions(truth: GroundTruth) -> Predictions:
    return noisy_detections(np.random.default_rng(1), truth)


def test_names_say_the_protocol(truth: GroundTruth, predictions: Predictions) -> None:
    result = measure_all(choose_protocols(ALL, 0.6), truth, predictions)
    prefixes = {name.split("/")[0] for name in result if not name.startswith(("map", "mar"))}
    assert prefixes == {"vid", "motion", "uavdt", "steadiness"}
    for own in (coco_average_precision, vid_average_precision):
        expected = own(truth, predictions)
        assert {name: result[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert result["steadiness/score_threshold"] == 0.6


@pytest.mark.parametrize("names", [["coco", "voc"], []])
def test_other_names_are_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="one or more of coco, vid, motion, uavdt, steadiness, "):
        choose_protocols(names)


def test_named_twice_is_once() -> None:
    assert list(choose_protocols(["vid", "coco", "vid"])) == ["vid", "coco"]


def test_table_shows_protocols_side_by_side(truth: GroundTruth, predictions: Predictions) -> None:
    result = measure_all(choose_protocols(ALL), truth, predictions)
    console = Console(width=250)
    with console.capture() as capture:
        console.print(protocols_table(ALL, result))
    text = capture.get()
    for title in ("COCO", "VID", "UAVDT AP70", "vehicle", "fast", "drop-outs", "scores from 0.3"):
        assert title in text
    cells = {
        row[0]: row[1:]
        for line in text.splitlines()
        if len(row := [cell.strip() for cell in line.split("│")[1:-1]]) > 1
    }
    assert cells["all objects"][0] == f"{100 * result['map']:.1f}"
    assert cells["all objects"][3] == f"{100 * result['vid/ap_50']:.1f}"
    assert cells["all objects"][13] == f"{result['steadiness/drop_outs']:.1f}"
    assert cells["class 1"][11] == f"{100 * result['uavdt/ap_70/class 1']:.1f}"
    assert cells["class 0"][10] == cells["class 0"][12] == ""
    assert cells["class 2"][0] == cells["class 2"][3] == "-"
    assert math.isnan(result["vid/ap_50/class 2"])
