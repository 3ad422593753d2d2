"""The config keys that the benchmark scripts set exist."""

from __future__ import annotations

import runpy
from argparse import Namespace
from pathlib import Path
from typing import Any

import hydra
import pytest

from vodet.cli.app import config_dir

BENCHMARKS = Path(__file__).parents[1] / "scripts" / "benchmarks"


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARKS / f"{name}.py"))


STREAM = script("stream")
TRAININGS: dict[str, tuple[str, ...]] = {
    **script("candidate_cache")["ROWS"],
    **{
        f"{table}, {row.name}": row.overrides
        for table, rows in script("fusion_gain")["TABLES"].items()
        for row in rows
    },
}


@pytest.mark.parametrize("table", STREAM["TABLES"])
def test_the_detectors_of_the_stream_benchmark_are_built(table: str) -> None:
    options = Namespace(
        detector=table,
        proposals=7,
        backbone="resnet10t",
        pyramid="identity",
        size=[64, 96],
        window="previous",
        device="cpu",
    )
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        detectors = [STREAM["build"](row, options) for row in STREAM["TABLES"][table].values()]
    assert all(detector.resize.target_size((64, 96)) == (64, 96) for detector in detectors)
    if table == "two-stage":
        assert [detector.head.limits[False].post_nms_top_n for detector in detectors] == [7, 7]


@pytest.mark.parametrize("name", TRAININGS)
def test_the_trainings_of_the_benchmarks_are_composed(name: str) -> None:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("train", [*TRAININGS[name], "run_dir=unused"])
    assert config.model.head._target_


def test_the_detector_of_the_training_step_benchmark_is_built() -> None:
    build = script("train_step")["build"]
    detector = build([], Namespace(backbone="resnet10t", device="cpu"))
    assert detector.head.remembers
