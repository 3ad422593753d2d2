"""Help and the answer to a mistake do not wait for what only the work needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "lightning", "cv2", "timm", "albumentations", "numpy", "matplotlib", "scipy"}
CODE = """
import sys
from vodet.cli.main import {0}
try:
    {0}()
except SystemExit:
    pass
print("imported:", *sys.modules)
"""


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        ("train", ["--help"], "vodet-train experiment=demo"),
        ("train", ["seed=1", "-h"], "\nrun_dir: "),
        ("evaluate", ["ckpt=a", "--help"], "\nckpt: "),
        ("predict", ["--help"], "\nsource: ???"),
        ("export", ["--help"], "\nframe_size: ???"),
        ("data", ["--help"], "vodet-data check"),
        ("data", ["check", "--help"], "--decode"),
        ("data", ["convert", "uavdt", "--help"], "--overwrite"),
        ("data", ["export-results", "--help"], "--format"),
        ("data", ["import-weights", "--help"], "--classes"),
        ("train", ["sed=1"], "Did you mean seed?"),
        ("train", ["experiment=dmo"], "experiment=demo?"),
        ("predict", ["source="], "No value is given for source"),
    ],
)
def test_answers_without_heavy_imports(command: str, arguments: list[str], expected: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CODE.format(command), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    assert expected in ended.stdout + ended.stderr
    imported = set(ended.stdout.partition("imported: ")[2].split())
    assert "vodet.cli.main" in imported
    assert not HEAVY & imported
