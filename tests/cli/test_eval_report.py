from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from cli.conftest import Command

CPU = ("trainer.accelerator=cpu", "data.num_workers=0")


@pytest.fixture
def evaluated(lively: Path, inside: Path, command: Command) -> Path:
    """The folder of an evaluation with a report."""
    if not (inside / "runs/eval_a").exists():
        command("eval", f"ckpt={lively}", *CPU, "report=true", "output=runs/eval_a")
    return inside / "runs" / "eval_a"


@pytest.fixture
def saved(evaluated: Path, inside: Path) -> Path:
    """A file with some of the detections of the evaluation."""
    rows = json.loads(gzip.decompress((evaluated / "detections.json.gz").read_bytes()))
    assert len(rows) > 100
    path = inside / "runs" / "saved" / "found.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows[::2]))
    return path


def error_of(capsys: pytest.CaptureFixture[str], command: Command, *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        command("eval", *arguments)
    return " ".join(capsys.readouterr().err.split())


def test_writes_a_report_and_what_a_comparison_needs(evaluated: Path, inside: Path) -> None:
    assert {path.name for path in evaluated.iterdir()} == {
        "eval.json", "report.html", "detections.json.gz", "evaluated.json",
    }  # fmt: skip
    record = json.loads((evaluated / "evaluated.json").read_text())
    assert record["predictions"] == "detections.json.gz"
    assert record["annotations"] == str(inside / "data/demo/val.json")
    page = (evaluated / "report.html").read_text()
    result = json.loads((evaluated / "eval.json").read_text())
    assert f"<td>{100 * result['map_50']:.1f}</td>" in page
    assert "data:video/mp4" in page
    assert "Evaluation of " in page


def test_a_report_of_saved_detections(saved: Path, inside: Path, command: Command) -> None:
    annotations = "data.annotations=data/demo/val.json"
    command("eval", f"predictions={saved}", annotations, "report=true", "output=runs/eval_b")
    page = (inside / "runs/eval_b/report.html").read_text()
    assert "Set data.images=FOLDER" in page
    record = json.loads((inside / "runs/eval_b/evaluated.json").read_text())
    assert record["predictions"] == str(saved)
    assert record["images"] is None


def test_compares_folders_and_files(
    evaluated: Path,
    saved: Path,
    inside: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command("eval", f"compare=[runs/eval_a,{saved}]", "output=runs/compared")
    assert "runs/compared/report.html" in capsys.readouterr().out
    page = (inside / "runs/compared/report.html").read_text()
    assert "Comparison of 2 evaluations" in page
    assert "eval_a" in page
    assert "saved/found.json" in page
    assert "Set data.images=FOLDER" not in page
    assert [path.name for path in (inside / "runs/compared").iterdir()] == ["report.html"]


def test_an_evaluation_that_saved_nothing(
    evaluated: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (inside / "runs/bare").mkdir(exist_ok=True)
    message = error_of(
        capsys, command, "compare=[runs/eval_a,runs/bare]", "output=runs/none",
    )  # fmt: skip
    assert "Expected runs/bare/evaluated.json" in message
    assert "report=true output=runs/bare" in message
    for text in ('{"predictions": 3}', "[]", "no JSON"):
        (inside / "runs/bare/evaluated.json").write_text(text)
        message = error_of(capsys, command, "compare=[runs/eval_a,runs/bare]", "output=runs/none")
        assert "runs/bare/evaluated.json" in message
    (inside / "runs/bare/evaluated.json").unlink()
    assert not (inside / "runs/none").exists()


def test_evaluations_of_other_annotations(
    evaluated: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    other = inside / "runs/other_data"
    other.mkdir(exist_ok=True)
    record = json.loads((evaluated / "evaluated.json").read_text())
    record |= {"annotations": str(inside / "data/demo/train.json")}
    record |= {"predictions": str(evaluated / "detections.json.gz")}
    (other / "evaluated.json").write_text(json.dumps(record))
    arguments = ("compare=[runs/eval_a,runs/other_data]", "output=runs/none")
    message = error_of(capsys, command, *arguments)
    assert "val.json" in message
    assert "train.json" in message
    assert "data.annotations=FILE" in message
    files = f"compare=[{evaluated}/detections.json.gz,runs/saved/found.json]"
    assert "data.annotations=FILE" in error_of(capsys, command, files, "output=runs/none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report=perhaps", "ckpt=a"], "report must be true or false, found 'perhaps'"),
        (["compare=[a]", "output=b"], "two or more different evaluations"),
        (["compare=[a,a]", "output=b"], "found ['a', 'a']"),
        (["compare=a", "output=b"], "compare=[runs/a,runs/b]; found a."),
        (["compare=[a,b]"], "compare needs output=FOLDER"),
        (["compare=[a,b]", "output=c", "ckpt=d"], "ckpt=d"),
    ],
)
def test_settings_that_do_not_fit(
    inside: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert message in error_of(capsys, command, *arguments)
