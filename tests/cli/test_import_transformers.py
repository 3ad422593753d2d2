"""``vodet-data import-weights transformers``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import vodet
from tiny import random_frames
from tiny_detr import saved
from vodet.cli import data
from vodet.cli.import_transformers import names_of
from vodet.data.frames.resize import Resize, Stretch
from vodet.errors import CheckpointError

NAMES = {"0": "N/A", "1": "person", "2": "N/A"}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = saved(tmp_path / "model", size={"height": 64, "width": 96})
    path = folder / "config.json"
    label2id = {name: int(label) for label, name in NAMES.items()}
    config = json.loads(path.read_text()) | {"id2label": NAMES, "label2id": label2id}
    path.write_text(json.dumps(config))
    return folder


def run(source: Path, target: Path, *options: str) -> int:
    return data.main(["import-weights", "transformers", str(source), str(target), *options])


def test_it_is_the_detector_of_the_folder(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForObjectDetection

    target = tmp_path / "new" / "detr.ckpt"
    assert run(source, target) == 0
    out = capsys.readouterr().out
    assert "RTDetrV2ForObjectDetection" in out
    assert "64 x 96" in out
    assert f"vodet-predict ckpt={target}" in out
    expected = AutoModelForObjectDetection.from_pretrained(source).eval()
    shutil.rmtree(source)

    detector = vodet.load(target)

    assert detector.class_names == ("N/A 0", "person", "N/A 2")
    assert detector.resize == Stretch(64, 96)
    frames = random_frames(1, (64, 96))
    with torch.inference_mode():
        found = detector.encode(frames).extras["head.scores"]
        logits = expected(pixel_values=frames / 255).logits
    best = logits.amax(dim=2).sort(descending=True).values
    torch.testing.assert_close(found, best[:, : found.shape[1]], rtol=1e-5, atol=1e-5)


def test_names_and_sizes_can_be_others(source: Path, tmp_path: Path) -> None:
    path = source / "preprocessor_config.json"
    sides = {"size": {"shortest_edge": 96, "longest_edge": 640}}
    path.write_text(json.dumps(json.loads(path.read_text()) | sides))
    assert run(source, tmp_path / "detr.ckpt", "--classes", "a,b,c") == 0
    detector = vodet.load(tmp_path / "detr.ckpt")
    assert detector.class_names == ("a", "b", "c")
    assert detector.resize == Resize(96, 640)


def test_what_cannot_be_imported_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "detr.ckpt"
    assert run(source, target, "--classes", "a,b") == 1
    assert "expected 3 different names" in capsys.readouterr().err
    path = source / "preprocessor_config.json"
    sides = {"size": {"height": 50, "width": 70}}
    path.write_text(json.dumps(json.loads(path.read_text()) | sides))
    assert run(source, target) == 1
    assert "failed on frames of 50 x 70" in capsys.readouterr().err
    (source / "model.safetensors").unlink()
    assert run(source, target) == 1
    said = capsys.readouterr().err
    assert "model.safetensors" in said
    assert str(source) in said
    assert not target.exists()
    target.write_text("")
    assert run(source, target) == 1
    assert "exists already" in capsys.readouterr().err


def test_classes_without_names_are_named_by_their_gaps() -> None:
    with pytest.raises(CheckpointError, match=r"ids 0 to 2 .*\[1, 2\] are missing.*--classes"):
        names_of({0: "a", 5: "b", 7: "c"}, "model")
