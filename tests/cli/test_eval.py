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


def test_protocols_side_by_side_with_and_without_the_model(
    trained: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = "protocols=[coco,vid,motion,uavdt,steadiness]"
    common = ["predictions=runs/all.json", wanted, "steadiness.score_threshold=0.05"]
    command(
        "eval", f"ckpt={trained}/best.ckpt", *common, CPU, "data.num_workers=0", "output=runs/a"
    )
    output = capsys.readouterr().out
    for title in ("COCO", "VID", "UAVDT", "slow", "found"):
        assert title in output
    command("eval", *common, "data.annotations=data/demo/val.json", "output=runs/b")
    first, second = (json.loads((inside / f"runs/{run}/eval.json").read_text()) for run in "ab")
    assert {"map", "vid/ap_50", "motion/ap_50_slow", "uavdt/ap_70", "steadiness/found"} <= {*first}
    assert second == pytest.approx(first, nan_ok=True)


def test_linking_steadies_the_scores(
    trained: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = json.loads((inside / "data/demo/val.json").read_text())["annotations"]
    found = [
        {key: row[key] for key in ("image_id", "category_id", "bbox")}
        | {"score": 0.9 if row["image_id"] % 2 else 0.5}
        for row in annotations
    ]
    (inside / "runs/made.json").write_text(json.dumps(found))
    arguments = ["predictions=runs/made.json", "data.annotations=data/demo/val.json"]
    arguments.append("protocols=[vid,steadiness]")
    command("eval", *arguments, "output=runs/c")
    assert "Seq-NMS" not in capsys.readouterr().out
    command("eval", *arguments, "tubelet_linking=seq_nms", "output=runs/d")
    assert "linked by Seq-NMS" in " ".join(capsys.readouterr().out.split())
    first, linked = (json.loads((inside / f"runs/{run}/eval.json").read_text()) for run in "cd")
    assert first["vid/ap_50"] == pytest.approx(1)
    assert linked["steadiness/score_change"] < 0.5 * first["steadiness/score_change"]


def test_one_protocol_needs_no_brackets(trained: Path, inside: Path, command: Command) -> None:
    arguments = [f"ckpt={trained}/best.ckpt", CPU, "data.num_workers=0", "output=runs/one"]
    command("eval", *arguments, "protocols=vid")
    result = json.loads((inside / "runs/one/eval.json").read_text())
    assert {name.split("/")[0] for name in result} == {"vid"}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("protocols=[coco,voc]", "found ['coco', 'voc']"),
        ("tubelet_linking=seq", "Expected tubelet_linking=none or seq_nms, found seq."),
    ],
)
def test_wrong_choices_are_named_before_anything_is_read(
    inside: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    argument: str,
    message: str,
) -> None:
    with pytest.raises(SystemExit, match="1"):
        command("eval", "ckpt=none.ckpt", argument)
    assert message in " ".join(capsys.readouterr().err.split())


def test_says_what_is_missing(
    inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        command("eval", "predictions=found.json")
    assert "Expected ckpt=FILE, or predictions=FILE and data.annotations=FILE" in (
        capsys.readouterr().err
    )
