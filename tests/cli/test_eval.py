from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

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


ALL = "protocols=[coco,vid,motion,track_length,uavdt,steadiness]"


def test_protocols_side_by_side_with_and_without_the_model(
    trained: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["predictions=runs/all.json", ALL, "steadiness.score_threshold=0.05"]
    common.append("tubelet_linking=seq_nms")
    command(
        "eval", f"ckpt={trained}/best.ckpt", *common, CPU, "data.num_workers=0", "output=runs/a"
    )
    output = capsys.readouterr().out
    for title in ("COCO", "VID", "UAVDT", "slow", "long", "found"):
        assert title in output
    command("eval", *common, "data.annotations=data/demo/val.json", "output=runs/b")
    first, second = (json.loads((inside / f"runs/{run}/eval.json").read_text()) for run in "ab")
    assert {"map", "vid/ap_50", "motion/ap_50_slow", "uavdt/ap_70", "steadiness/found"} <= {*first}
    assert second == pytest.approx(first, nan_ok=True)


@pytest.fixture
def made(inside: Path) -> list[str]:
    """Arguments that name a set of two videos, one at night, and uneven but right detections."""
    document = json.loads((inside / "data/demo/val.json").read_text())
    names = sorted({image["video"] for image in document["images"]})
    document["videos"] = [{"id": 5, "name": names[1], "attributes": ["night"]}]
    (inside / "runs/night.json").write_text(json.dumps(document))
    rows = [
        {key: row[key] for key in ("image_id", "category_id", "bbox")}
        | {"score": 0.9 if row["image_id"] % 2 else 0.5}
        for row in document["annotations"]
    ]
    (inside / "runs/made.json").write_text(json.dumps(rows))
    return ["predictions=runs/made.json", "data.annotations=runs/night.json"]


def test_linked_and_plain_are_shown_side_by_side(
    made: list[str], inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command("eval", *made, ALL, "output=runs/c")
    assert "seq_nms" not in capsys.readouterr().out
    command("eval", *made, ALL, "tubelet_linking=seq_nms", "output=runs/d")
    labels = [
        line.split("│")[1].strip() for line in capsys.readouterr().out.split("\n") if "│" in line
    ]
    assert labels.count("+ seq_nms") == sum(label not in ("", "+ seq_nms") for label in labels) > 10
    plain, both = (json.loads((inside / f"runs/{run}/eval.json").read_text()) for run in "cd")
    assert {name: both[name] for name in plain} == pytest.approx(plain, nan_ok=True)
    linked = {name.removeprefix("seq_nms/"): both[name] for name in both if name not in plain}
    assert list(linked) == list(plain)
    assert plain["vid/ap_50"] == plain["vid/ap_50@night"] == pytest.approx(1)
    assert linked["steadiness/score_change"] < 0.5 * plain["steadiness/score_change"]
    assert linked["steadiness/score_change@night"] < 0.5 * plain["steadiness/score_change@night"]


def test_the_table_of_coco_alone_shows_linked_numbers_and_attributes(
    made: list[str], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command("eval", *made, "tubelet_linking=seq_nms", "output=runs/e")
    output = capsys.readouterr().out
    assert "COCO AP (IoU 0.50:0.95)" in output
    lines = [line.split("│")[1:3] for line in output.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells[:2] == [["all objects", "100.0"], ["+ seq_nms", "100.0"]]
    assert cells[-2:] == [["videos: night", "100.0"], ["+ seq_nms", "100.0"]]


def test_protocols_are_those_of_the_data_it_was_trained_with(
    trained: Path, inside: Path, command: Command
) -> None:
    checkpoint = torch.load(trained / "last.ckpt", weights_only=True)
    checkpoint["vodet"]["config"]["data"]["protocols"] = ["vid", "uavdt"]
    torch.save(checkpoint, inside / "runs/uavdt.ckpt")
    arguments = ["ckpt=runs/uavdt.ckpt", CPU, "data.num_workers=0", "output=runs/own"]
    for own, expected in (([], {"vid", "uavdt"}), (["protocols=steadiness"], {"steadiness"})):
        command("eval", *arguments, *own)
        result = json.loads((inside / "runs/own/eval.json").read_text())
        assert {name.split("/")[0] for name in result} == expected


def test_detections_that_do_not_fit_are_named(
    made: list[str], inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((inside / "runs/night.json").read_text())
    document["images"][0]["is_annotated"] = False
    (inside / "runs/partly.json").write_text(json.dumps(document))
    rows = json.loads((inside / "runs/made.json").read_text())
    unknown = [row for row in rows if row["image_id"] == document["images"][0]["id"]]
    with pytest.raises(SystemExit, match="1"):
        command("eval", made[0], "data.annotations=runs/partly.json", "output=runs/f")
    message = " ".join(capsys.readouterr().err.split())
    assert "The predictions in runs/made.json cannot be evaluated." in message
    fault = "an image id that the annotations lack, or of a frame that is not annotated"
    first = f"entry {rows.index(unknown[0])} {{'image_id': {unknown[0]['image_id']},"
    assert f"{len(unknown)} of {len(rows)} entries have {fault}: first {first}" in message
    assert not (inside / "runs/f").exists()


def test_one_protocol_needs_no_brackets(trained: Path, inside: Path, command: Command) -> None:
    arguments = [f"ckpt={trained}/best.ckpt", CPU, "data.num_workers=0", "output=runs/one"]
    command("eval", *arguments, "protocols=vid")
    result = json.loads((inside / "runs/one/eval.json").read_text())
    assert {name.split("/")[0] for name in result} == {"vid"}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("protocols=[coco,voc]", "found ['coco', 'voc']"),
        ("protocols=[]", "Expected protocols to be one or more of coco, vid,"),
        ("steadiness.score_threshold=low", "score_threshold to be a number, found low."),
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
