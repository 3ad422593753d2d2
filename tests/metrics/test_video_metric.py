from __future__ import annotations

import json
import math
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from metrics.test_coco import random_detections, random_ground_truth
from vodet.errors import ConfigError, DataError
from vodet.metrics.video_metric import VideoMetric
from vodet.structures import Detections, GroundTruth


def perfect(truth: GroundTruth, frame: int) -> Detections:
    rows = slice(*truth.box_starts[frame : frame + 2])
    labels = torch.from_numpy(truth.labels[rows])
    return Detections(
        boxes=torch.from_numpy(truth.boxes[rows]),
        scores=torch.ones(len(labels)),
        labels=labels,
    )


def test_perfect_detections_have_ap_one_and_undefined_numbers_are_nan() -> None:
    truth = random_ground_truth(np.random.default_rng(1))
    metric = VideoMetric(truth)
    metric.update(truth.image_ids.tolist(), [perfect(truth, frame) for frame in range(12)])
    result = metric.compute()
    assert result["map"] == pytest.approx(1, abs=1e-12)
    assert result["map_50/class 0"] == pytest.approx(1, abs=1e-12)
    assert math.isnan(result["map/class 3"])


def empty() -> Detections:
    return Detections(
        boxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64)
    )


def test_no_detections_is_zero_and_silent(capfd: pytest.CaptureFixture[str]) -> None:
    truth = random_ground_truth(np.random.default_rng(1))
    metric = VideoMetric(truth)
    metric.update([], [])
    metric.update(truth.image_ids.tolist(), [empty()] * 12)
    result = metric.compute()
    assert result["map"] == result["mar_100"] == result["map/class 0"] == 0.0
    assert capfd.readouterr() == ("", "")


def test_measures_what_it_is_told() -> None:
    truth = random_ground_truth(np.random.default_rng(1))
    metric = VideoMetric(truth, lambda _, predictions: {"number": len(predictions) + 0.0})
    number = int(np.diff(truth.box_starts)[:2].sum())
    assert number > 0
    metric.update(truth.image_ids[:2].tolist(), [perfect(truth, frame) for frame in range(2)])
    assert metric.compute() == {"number": number}


def test_reset_forgets() -> None:
    truth = random_ground_truth(np.random.default_rng(1))
    metric = VideoMetric(truth)
    frames = truth.image_ids.tolist()
    metric.update(frames, [perfect(truth, frame) for frame in range(12)])
    metric.compute()
    metric.reset()
    metric.update(frames, [empty()] * 12)
    assert metric.compute()["map"] == 0.0


def test_errors() -> None:
    truth = random_ground_truth(np.random.default_rng(1))
    metric = VideoMetric(truth)
    first = int(truth.image_ids[0])
    with pytest.raises(DataError, match="annotated frames only, found image id 7"):
        metric.update([first, 7], [empty(), empty()])
    not_finite = Detections(
        boxes=torch.tensor([[0, 0, 1, 1], [0, 0, math.inf, 1]]),
        scores=torch.tensor([0.5, 0.5]),
        labels=torch.tensor([0, 0]),
    )
    with pytest.raises(DataError, match=f"found 1 of 2 detections that are not.* id {first}"):
        metric.update([first], [not_finite])
    with pytest.raises(ConfigError, match="no value for a single batch"):
        metric([first], [empty()])
    metric.update([first], [empty()])
    metric.update([first], [empty()])
    with pytest.raises(DataError, match=f"found 1 answered more often, the first image id {first}"):
        metric.compute()


def evaluate_share(rank: int, world_size: int, folder: Path) -> None:
    """Each process answers its frames, unequally many; then all answer one frame twice."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
    )
    rng = np.random.default_rng(5)
    truth = random_ground_truth(rng)
    detections = [random_detections(rng, truth, frame) for frame in range(12)]
    metric = VideoMetric(truth)
    owners = np.array([1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1]) % world_size  # rank 2 of 3 has none
    for frame in np.flatnonzero(owners == rank):
        metric.update([int(truth.image_ids[frame])], [detections[frame]])
    metric.update([], [])
    result = metric.compute()
    metric.update([int(truth.image_ids[0])], [detections[0]])
    with pytest.raises(DataError, match="found 1 answered more often"):
        metric.compute()
    (folder / f"{rank}.json").write_text(json.dumps(result))
    distributed.destroy_process_group()


def test_any_number_of_processes_gives_identical_numbers(tmp_path: Path) -> None:
    get_context("forkserver").set_forkserver_preload(
        ["vodet.metrics.video_metric"]
    )  # torch only once
    results = []
    for world_size in (1, 2, 3):
        folder = tmp_path / str(world_size)
        folder.mkdir()
        multiprocessing.start_processes(
            evaluate_share, (world_size, folder), nprocs=world_size, start_method="forkserver"
        )
        results += [(folder / f"{rank}.json").read_text() for rank in range(world_size)]
    assert json.loads(results[0])["map"] > 0.1
    assert len(results) == 6
    assert len(set(results)) == 1
