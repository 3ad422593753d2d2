"""The commands of docs/detr.md run in their order, with a small model in place of the hub's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import vodet
from cli.conftest import Command
from cli.test_readme import commands
from tiny import random_frames
from tiny_detr import saved
from vodet.cli import data
from vodet.inference.writing import VideoWriter

pytest.importorskip("transformers")
PAGE = (Path(__file__).parents[2] / "docs" / "detr.md").read_text()
SMALL = (
    "model.head.pretrained=model",
    "model.head.num_candidates=12",
    "model.head.width=16",
    "data.resize.height=64",
    "data.resize.width=64",
    "data.num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "trainer.enable_progress_bar=false",
    "logger.tensorboard=null",
)


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
    for name, *arguments in page:
        if name == "vodet-data":
            local = ["model" if "/" in argument else argument for argument in arguments]
            assert data.main(local) == 0
        elif name == "vodet-train":
            heads = "model.head.fusion.query_attention.heads=2"
            own = () if "experiment=custom_detr" in arguments else (heads,)
            command("train", *arguments, *SMALL, *own)
        elif name == "vodet-eval":
            command("eval", *arguments, "trainer.accelerator=cpu", "data.num_workers=0")
        else:
            command("predict", *arguments, "score_threshold=0.0")
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
