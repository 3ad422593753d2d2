"""ONNX Runtime, without PyTorch, finds in a video what the detector itself finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vodet
from export.exported_streams import DETECTORS, FRAMES

ROOT = Path(__file__).parents[2]


def python(*arguments: str | Path, path: Path) -> str:
    """The output of a Python process that looks for modules in a folder first."""
    paths = [str(path), str(Path(vodet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    python(Path(__file__).with_name("exported_streams.py"), folder, path=ROOT / "tests")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", DETECTORS)
def test_the_example_finds_what_the_detector_finds(
    name: str, exported: Path, tmp_path: Path
) -> None:
    for package in ("torch", "vodet"):
        (tmp_path / f"{package}.py").write_text("raise ImportError")
    example = ROOT / "examples" / "onnx_stream.py"
    printed = python(example, exported / name, exported / "video.mp4", path=tmp_path)
    found = [json.loads(line) for line in printed.splitlines()]
    expected = json.loads((exported / f"{name}.json").read_text())
    assert len(found) == len(expected) == FRAMES
    assert sum(len(frame["scores"]) for frame in expected) > FRAMES
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours["scores"]) == len(theirs["scores"])
        for row in range(len(theirs["scores"])):
            assert is_found(theirs, row, ours), (name, theirs["boxes"][row], theirs["scores"][row])


def is_found(theirs: dict[str, Any], row: int, ours: dict[str, Any]) -> bool:
    """Whether a detection is among ours, which may differ in the order of equal scores."""
    if not ours["scores"]:
        return False
    is_same = np.array(ours["labels"]) == theirs["labels"][row]
    is_same &= np.abs(np.array(ours["scores"]) - theirs["scores"][row]) < 1e-3
    is_same &= np.abs(np.array(ours["boxes"]) - theirs["boxes"][row]).max(axis=1) < 1e-2
    return bool(is_same.any())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_description_says_how_to_run_the_programs(exported: Path) -> None:
    about = json.loads((exported / "stf" / "vodet.json").read_text())
    assert about["vodet"] == vodet.__version__
    assert about["class_names"] == ["car", "dog", "kite"]
    assert about["frame"] == {
        "height": 38,
        "width": 64,
        "keeps_aspect_ratio": True,
        "video": [48, 80],
        "picture": [38, 64],
    }
    assert about["window"] == [-4, -2, 0, 2]
    assert about["memory"] == {}
    shapes = {entry["name"]: entry["shape"] for entry in about["step"]["inputs"]}
    assert shapes["sizes"] == [4, 2]
    about = json.loads((exported / "conv_gru" / "vodet.json").read_text())
    for before, after in about["memory"].items():
        tensors = [*about["step"]["inputs"], *about["step"]["outputs"]]
        (first, second) = (t for t in tensors if t["name"] in (before, after))
        assert first["shape"] == second["shape"]


def test_maps_from_which_candidates_were_pooled_are_no_input(exported: Path) -> None:
    about = json.loads((exported / "long_term" / "vodet.json").read_text())
    assert not [t for t in about["step"]["inputs"] if t["name"].startswith("maps")]
