"""The commands of docs/detr.md run in their order, with a small model in place of the hub's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import vodet
from cli.conftest import Command
from cli.test_readme import commands, smaller
from tiny import random_frames
from tiny_detr import saved
from vodet.cli import data
from vodet.inference.writing import VideoWriter

PAGE = (Path(__file__).parents[2] / "docs" / "detr.md").read_text()


@pytest.mark.slow
def test_commands_of_the_page(
    inside: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "model", size={"height": 64, "width": 64})
    for split in ("train", "val"):
        shutil.copy(inside / f"data/demo/{split}.json", tmp_path)
    (tmp_path / "frames").symlink_to(inside / "data/demo")
    with VideoWriter(tmp_path / "street.mp4", 5) as video:
        for frame in random_frames(4):
            video.write(np.ascontiguousarray(frame.permute(1, 2, 0).numpy()))
    install, *page = commands(PAGE)
    assert install == ["pip", "install", "vodet[transformers]"]
    for words in page:
        name, arguments = words[0], smaller(words)
        if name == "vodet-data":
            assert data.main(arguments) == 0
        elif name == "vodet-predict":
            command("predict", *arguments, "score_threshold=0.0")
        else:
            command(name.removeprefix("vodet-"), *arguments)
    assert [name for name, *_ in page] == [
        "vodet-data",
        "vodet-predict",
        "vodet-train",
        "vodet-train",
        "vodet-eval",
    ]
    lines = (tmp_path / "runs/predict/street_detections.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert json.loads(lines[0])["detections"]
    base, temporal = (vodet.load(f"runs/{name}/best.ckpt") for name in ("base", "temporal"))
    before, after = base.head.model.state_dict(), temporal.head.model.state_dict()
    assert all((value == after[name]).all() for name, value in before.items())
    assert temporal.head.fusion.remembers is False
    assert json.loads((tmp_path / "runs/temporal/eval.json").read_text())
