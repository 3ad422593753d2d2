from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import vodet
from cli.conftest import Command
from vodet.inference.reading import open_source


@pytest.mark.parametrize(
    "source", ["data/demo/images/val/val_000", "data/demo/images/val/val_000/*.jpg"]
)
def test_writes_video_and_detections(
    source: str, trained: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(
        "predict",
        f"ckpt={trained}/best.ckpt",
        f"source={source}",
        "output=runs/found",
        "score_threshold=0.001",
        "chunk_size=3",
    )
    video, lines = sorted((inside / "runs/found").iterdir(), reverse=True)[:2]
    assert len(list(open_source(video))) == 4
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["frame"] for record in records] == [0, 1, 2, 3]
    stream = vodet.StreamingDetector(vodet.load(trained / "best.ckpt"), score_threshold=0.001)
    frames = [frame for _, frame in open_source(source)]
    answers = stream.push(np.stack(frames)) + stream.flush()
    expected = [answer.detections["scores"] for answer in answers]
    for record, scores in zip(records, expected, strict=True):
        found = [detection["score"] for detection in record["detections"]]
        assert found == pytest.approx(scores.tolist(), abs=1e-4)
    assert "4 frames in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("source=nowhere.mp4", "nowhere.mp4"),
        ("device=cuda:7", r"device=cuda:7: expected a device of this machine, which has"),
        ("ckpt=nowhere.ckpt", "Expected a checkpoint at nowhere.ckpt, found no such file."),
    ],
)
def test_says_what_is_wrong(
    argument: str,
    message: str,
    trained: Path,
    inside: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="1"):
        command(
            "predict", f"ckpt={trained}/best.ckpt", "source=data/demo/images/val/val_000", argument
        )
    assert message in capsys.readouterr().err


def test_needs_a_source(inside: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        command("predict", "ckpt=a.ckpt")
    assert "source" in capsys.readouterr().err
