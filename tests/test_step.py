"""A step is one graph, with its memory as inputs and outputs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import vodet
from step_in_one_graph import detectors


def test_a_step_compiles_and_exports_with_every_fusion() -> None:
    script = Path(__file__).with_name("step_in_one_graph.py")
    paths = [str(Path(vodet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    done = [f"{name} {how}" for name in detectors() for how in ("compiled", "exported")]
    assert run.stdout.splitlines() == done
