from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Command

CPU = "trainer.accelerator=cpu"


def test_equals_the_evaluation_during_training(
    trained: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command("eval", f"ckpt={trained}/last.ckpt", CPU, "output=runs/eval", "data.num_workers=0")
    result = json.loads((inside / "runs/eval/eval.json").read_text())
    expected = json.loads((trained / "metrics.json").read_text())["last"]
    for name, value in result.items():
        assert value == pytest.approx(expected[f"val/{name}"], abs=1e-6), name
    assert "COCO AP" in capsys.readouterr().out


def test_saved_predictions_give_the_same_numbers(
    trained: Path, inside: Path, command: Command
) -> None:
    for suffix in ("json", "json.gz"):
        file = f"predictions=runs/found.{suffix}"
        command(
            "eval", f"ckpt={trained}/best.ckpt", file, CPU, "data.num_workers=0", "output=runs/a"
        )
        command("eval", file, "data.annotations=data/demo/val.json", "output=runs/b")
        first, second = (json.loads((inside / f"runs/{run}/eval.json").read_text()) for run in "ab")
        assert second == pytest.approx(first, nan_ok=True)


def test_another_window_and_other_data(trained: Path, inside: Path, command: Command) -> None:
    command(
        "eval",
        f"ckpt={trained}/best.ckpt",
        CPU,
        "window.past=2",
        "data.annotations=data/demo/train.json",
        "data.images=data/demo",
        "data.num_workers=0",
        "data.chunk_size=3",
        "output=runs/other",
    )
    assert (inside / "runs/other/eval.json").is_file()


def test_says_what_is_missing(
    inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        command("eval", "predictions=found.json")
    assert "Expected ckpt=FILE, or predictions=FILE and data.annotations=FILE" in (
        capsys.readouterr().err
    )
