from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import vodet
from cli.conftest import TINY, Command
from vodet.tasks.checkpoint import read_checkpoint


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(path)["state_dict"]
    return state


def assert_same_weights(found: Path, expected: Path) -> None:
    a, b = weights(found), weights(expected)
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=0, atol=0, msg=name)


def test_a_run_leaves_what_it_should(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "best.ckpt",
        "last.ckpt",
        "config.yaml",
        "metrics.json",
        "curves.png",
        "csv",
    }
    report = json.loads((trained / "metrics.json").read_text())
    assert (report["epochs"], report["steps"]) == (2, 6)
    assert 0 <= report["last"]["val/map"] <= report["last"]["val/map_50"] <= 1
    assert report["best"]["val/map"] >= report["last"]["val/map"]
    assert report["last"]["train/loss"] == pytest.approx(
        sum(report["last"][f"train/loss_{name}"] for name in ("heatmap", "size", "offset")),
        rel=1e-5,
    )
    card = read_checkpoint(trained / "best.ckpt")["vodet"]
    assert card["version"] == vodet.__version__
    assert card["class_names"] == list(vodet.load(trained / "best.ckpt").class_names)
    assert len(card["class_names"]) == 6


def test_resumed_training_ends_with_the_same_weights(
    trained: Path, inside: Path, command: Command
) -> None:
    command(
        "train",
        *TINY,
        "run_dir=runs/resumed/a",
        "name=resumed",
        "trainer.max_epochs=1",
        "scheduler.scheduler.T_max=2",
    )
    command("train", *TINY, "name=resumed", "resume=last")
    assert_same_weights(inside / "runs/resumed/a/last.ckpt", trained / "last.ckpt")
    report = json.loads((inside / "runs/resumed/a/metrics.json").read_text())
    assert report["steps"] == 6
    logs = sorted((inside / "runs/resumed/a/csv").iterdir())
    assert [path.name for path in logs] == ["version_0", "version_1"]
