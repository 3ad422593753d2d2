"""vodet-export as users run it; tests/export/ has the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Command
from export.test_folder import run


@pytest.mark.parametrize("value", ["720", "[720]", "[720,0]", "[720.0,1280]", "[1,2,3]", "{a:1}"])
def test_a_frame_size_that_is_none(value: str, tmp_path: Path, command: Command, capsys) -> None:
    with pytest.raises(SystemExit):
        command("export", "ckpt=none", f"output={tmp_path}/new", f"frame_size={value}")
    assert "frame_size must be [HEIGHT,WIDTH]" in " ".join(capsys.readouterr().err.split())


SIZE = "frame_size=[64,96]"
EXPORT = "from vodet.cli.main import export; export()"


def test_a_missing_package_names_its_extra(tmp_path: Path) -> None:
    code = f"import sys; sys.modules['onnxscript'] = None; {EXPORT}"
    ended = run(code, "ckpt=none.ckpt", f"output={tmp_path}/new", SIZE)
    assert ended.returncode == 1
    assert "onnxscript cannot be found" in ended.stderr
    assert "pip install 'vodet[onnx]'" in ended.stderr


def test_a_checkpoint_of_another_program(tmp_path: Path) -> None:
    (tmp_path / "other.ckpt").write_bytes(b"no checkpoint")
    ended = run(
        EXPORT, f"ckpt={tmp_path}/other.ckpt", f"output={tmp_path}/new", SIZE, "format=torch_export"
    )
    assert ended.returncode == 1
    assert "other.ckpt" in ended.stderr
    assert not (tmp_path / "new").exists()


def test_the_command_exports_a_checkpoint(trained: Path, tmp_path: Path) -> None:
    found = run(
        EXPORT,
        f"ckpt={trained}/best.ckpt",
        f"output={tmp_path}/new",
        "format=torch_export",
        SIZE,
        "+model.head.max_detections=7",
    )
    assert found.returncode == 0, found.stderr
    names = ["begin.npz", "encode.pt2", "step.pt2", "vodet.json"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
    about = json.loads((tmp_path / "new/vodet.json").read_text())
    assert about["frame"]["video"] == [64, 96]
    boxes, *_ = about["step"]["outputs"]
    assert boxes == {"name": "boxes", "shape": [7, 4], "type": "float32"}
