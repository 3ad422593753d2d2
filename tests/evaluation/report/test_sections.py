from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.report.made import MEASURES, made_data, noisy_run
from metrics.tracked import found, moving_objects, noisy_detections, one_video
from vodet.evaluation.measures import Measures
from vodet.evaluation.report import sections
from vodet.evaluation.report.analysis import Analysis, Run, best_threshold
from vodet.evaluation.report.comparison import by_group, differences
from vodet.metrics.subsets import ClassOutcome

BOX = [0.0, 0.0, 10.0, 10.0]


def test_a_row_per_metric_linking_and_attribute() -> None:
    rng = np.random.default_rng(0)
    truth = moving_objects(rng, videos=2, attributes={"night": [1]})
    predictions = noisy_detections(rng, truth)
    measures = Measures(["coco"], "seq_nms")
    run = Run("run", predictions, measures(truth, predictions))
    rows = {row.name: row for row in sections.numbers([Analysis(truth, run, 0.3)], measures)}
    assert list(rows)[:3] == ["COCO AP", "COCO AP, videos: night", "COCO AP50"]
    assert rows["COCO AP50, videos: night"].values == [run.result["map_50@night"]]
    assert rows["COCO AP (seq_nms)"].values == [run.result["seq_nms/map"]]
    assert len(rows) == 12


def test_rows_agree_with_the_protocols(tmp_path: Path) -> None:
    data = made_data(tmp_path / "set")
    run = noisy_run(data, "run")
    analysis = Analysis(data.ground_truth, run, 0.3)
    classes = {row.name: row for row in sections.class_rows([analysis])}
    assert classes["car"].values == pytest.approx([run.result["map_50/car"]])
    assert classes["car"].extras[:2] == pytest.approx((27, run.result["map/car"]))
    motion = {row.name: row for row in sections.subset_rows([analysis])["motion"]}
    assert motion["fast"].values == pytest.approx([run.result["motion/coco_ap_50_fast"]])
    (chart, _) = sections.curves([analysis])
    heights = [100 - float(point.split(",")[1]) for point in chart.lines[0].split()]
    assert len(heights) == 101
    assert np.mean(heights) == pytest.approx(100 * chart.values[0], abs=0.1)


def test_many_classes_are_merged_in_the_matrix() -> None:
    rng = np.random.default_rng(0)
    truth = moving_objects(rng, videos=4, tracks=12, classes=50)
    run = Run("run", noisy_detections(rng, truth), {})
    analysis = Analysis(truth, run, 0.3)
    (matrix,) = sections.confusions([analysis])
    assert len(matrix.names) == 31
    assert matrix.names[-1] == "20 other classes"
    assert np.sum(matrix.counts) == analysis.confusion.sum()
    assert np.sum(matrix.counts[-1]) == analysis.confusion[-1].sum()
    assert len(sections.curves([analysis])) == len(np.unique(truth.labels[~truth.iscrowd]))


def test_found_by_the_age_of_a_track() -> None:
    truth = one_video([[BOX]] * 4)
    run = Run("run", found([(1, BOX, 0.9), (3, BOX, 0.9)]), {})
    analysis = Analysis(truth, run, 0.3)
    assert analysis.found_by_age().tolist() == [0, 1, 0, 1]
    chart = sections.age_chart([analysis])
    assert chart is not None
    assert chart.lines == ["0,100 33.33,0 66.67,100 100,0"]
    assert chart.end == 4


def test_the_best_threshold_has_the_highest_f1() -> None:
    outcome = ClassOutcome(
        np.array([True, True, False, False, True]),
        np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32),
        np.zeros(5, int),
        np.array([3]),
    )
    assert best_threshold(outcome) == pytest.approx((0.8, 0.8))
    nothing = replace(outcome, is_true=np.zeros(5, bool))
    assert np.isnan(best_threshold(nothing)).all()


def test_differences_of_runs(tmp_path: Path) -> None:
    data = made_data(tmp_path / "set", video_names=[f"v{number}" for number in range(8)])
    runs = [noisy_run(data, "alone", found=0.3), noisy_run(data, "fused", seed=1, found=0.95)]
    analyses = [Analysis(data.ground_truth, run, 0.3) for run in [*runs, runs[0]]]
    rows = {(row.group, row.name): row for row in differences(analyses)}
    ap = rows["all objects", "AP50"]
    assert ap.values == pytest.approx([run.result["map_50"] for run in [*runs, runs[0]]])
    better, same = ap.intervals
    assert 0 < better.low < ap.changes[0] < better.high
    assert same == (0, 0)
    found_share = rows["stability", "stability found"]
    assert found_share.values[1] == pytest.approx(runs[1].result["stability/found"])
    assert rows["AP50 by class", "dog"].num_objects == 72
    assert ("AP50 by size", "large") not in rows  # no such objects
    groups = by_group(list(rows.values()))
    assert {reach for _, reach in groups["AP50 by class"]} == {
        max(row.reach for row, _ in groups["AP50 by class"])
    }
    assert differences(analyses) == list(rows.values())  # the same videos are drawn


def test_measures_are_named(tmp_path: Path) -> None:
    data = made_data(tmp_path / "set")
    analysis = Analysis(data.ground_truth, noisy_run(data, "run"), 0.3)
    names = [row.name for row in sections.numbers([analysis], MEASURES)]
    assert names[0] == "COCO AP"
    assert "VID AP50 fast motion" in names
    assert "drop-outs / 100 frames" in names
