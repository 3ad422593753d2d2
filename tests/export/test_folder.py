"""How a folder with an exported detector is written, and what cannot be exported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import vodet
from vodet.data.frames.resize import Letterbox, OriginalSize, Resize, Stretch
from vodet.errors import ConfigError
from vodet.export.folder import check_empty, check_format, describe_frame

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("resize", "height", "width", "picture", "keeps_aspect_ratio"),
    [
        (Resize(360), 360, 640, (360, 640), True),
        (Resize(360, 500), 281, 500, (281, 500), True),
        (OriginalSize(), 720, 1280, (720, 1280), True),
        (Letterbox(320, 320), 320, 320, (180, 320), True),
        (Stretch(320, 448), 320, 448, (320, 448), False),
    ],
)
def test_how_frames_become_inputs(resize, height, width, picture, keeps_aspect_ratio) -> None:
    assert describe_frame(resize, (720, 1280)) == {
        "height": height,
        "width": width,
        "keeps_aspect_ratio": keeps_aspect_ratio,
        "video": (720, 1280),
        "picture": picture,
    }


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    check_empty(tmp_path / "new")
    check_empty(tmp_path)
    (tmp_path / "kept").write_text("")
    with pytest.raises(ConfigError, match=f"{tmp_path} .* found 1 files"):
        check_empty(tmp_path)
    with pytest.raises(ConfigError, match="found a file"):
        check_empty(tmp_path / "kept")


def test_formats() -> None:
    check_format("torch_export")
    with pytest.raises(ConfigError, match="onnx, torch_export; found 'tflite'"):
        check_format("tflite")


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process without the wrappers of tests, which cannot be in a graph."""
    paths = [str(TESTS), str(Path(vodet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )


PARTS = """
import torch
from pathlib import Path
from tiny import fusion_of, tiny_detector, tiny_two_stage
from vodet.errors import ConfigError
from vodet.export.folder import export_detector
from vodet.structures import Window

class Brightest(torch.nn.Module):
    def __init__(self, spec):
        super().__init__()

    def forward(self, window, reference):
        if window.levels[0].mean() > 0:
            return window[:, reference]
        return window[:, 0]

for detector in (tiny_detector(Brightest, Window(1)), tiny_two_stage("sltnet", Window(1))):
    try:
        export_detector(detector, Path("never"), "torch_export", (64, 64))
    except ConfigError as error:
        print(str(error).replace(chr(10), " "))
assert not Path("never").exists()
"""


def test_a_part_that_cannot_be_exported_is_named() -> None:
    ended = run(PARTS)
    assert ended.returncode == 0, ended.stderr
    own, hungarian = ended.stdout.splitlines()
    assert "fusion.net (Brightest)" in own
    assert "docs/export.md" in own
    assert "assignment=linking" in hungarian
    assert "propagate=none" in hungarian
