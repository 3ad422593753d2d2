"""YOLOV as a user trains it: a one-stage detector, then a second phase on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import vodet
from cli.conftest import TINY, Command
from tiny import random_frames

TINY_ONE_STAGE = (
    *(setting for setting in TINY[1:] if not setting.startswith("model.head")),
    "model.head.width=16",
    "trainer.max_epochs=1",
)


def test_two_phases(inside: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command("train", "experiment=demo_one_stage", *TINY_ONE_STAGE, "run_dir=runs/one_stage")
    first = ["init_from=runs/one_stage/last.ckpt", "run_dir=runs/yolov"]
    command("train", "experiment=demo_yolov", *TINY_ONE_STAGE, *first)
    assert "head.class_features" in capsys.readouterr().out  # new
    base, second = (
        torch.load(f"runs/{name}/last.ckpt", weights_only=True)["state_dict"]
        for name in ("one_stage", "yolov")
    )
    assert all(torch.equal(second[name], value) for name, value in base.items())
    new = {".".join(name.split(".")[1:3]) for name in second.keys() - base.keys()}
    assert new == {"head.class_features", "head.fusion", "head.st_classifier"}
    command(
        "eval", "ckpt=runs/yolov/last.ckpt", "window=causal", "trainer=cpu", "data.num_workers=0"
    )
    assert json.loads((inside / "runs/yolov/eval.json").read_text())["map"] is not None
    detector = vodet.load("runs/yolov/last.ckpt")
    assert detector.window.lookahead == 3
    assert len(vodet.StreamingDetector(detector).push(random_frames(5))) == 2


def test_a_second_phase_needs_a_first(
    inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command("train", "experiment=demo_yolov", *TINY_ONE_STAGE, "run_dir=runs/none")
    printed = capsys.readouterr().err
    assert "head.base, but their weights are random" in printed
