from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import vodet
from cli.conftest import Command
from inference.made_videos import encode, noise, write_video
from vodet.augmented_stream import AugmentedStream
from vodet.inference.sources import open_source
from vodet.inference.streams import RescoringStream


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
    frames = [frame.pixels for frame in open_source(source)]
    results = stream.push(np.stack(frames)) + stream.flush()
    expected = [result.detections["scores"] for result in results]
    for record, scores in zip(records, expected, strict=True):
        found = [detection["score"] for detection in record["detections"]]
        assert found == pytest.approx(scores.tolist(), abs=1e-4)
    assert "4 frames in" in capsys.readouterr().out


def test_views_and_linking_together(lively: Path, inside: Path, command: Command) -> None:
    source = "data/demo/images/val/val_000"
    command(
        "predict",
        f"ckpt={lively}",
        f"source={source}",
        "output=runs/views",
        "score_threshold=0.1",
        "device=cpu",
        "tubelet_linking=rescore_online",
        "test_time_augmentation.flip=true",
        "test_time_augmentation.scales=[1.25]",
    )
    stream = RescoringStream(AugmentedStream(vodet.load(lively), flip=True, scales=(1.25,)))
    results = (
        stream.push(np.stack([frame.pixels for frame in open_source(source)])) + stream.flush()
    )
    lines = (inside / "runs/views/val_000_detections.jsonl").read_text().splitlines()
    for line, result in zip(lines, results, strict=True):
        found = json.loads(line)["detections"]
        expected = result.detections["scores"]
        assert len(found) > 0
        assert [detection["score"] for detection in found] == pytest.approx(
            expected[expected >= 0.1].tolist(), abs=1e-4
        )


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("source=nowhere.mp4", "nowhere.mp4"),
        ("tubelet_linking=all", "tubelet_linking must be one of none, seq_nms, rescore, rescore_"),
        ("device=cuda:7", "a device of this machine, which has"),
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


def predict_folder(command: Command, trained: Path, source: str, output: str) -> None:
    command("predict", f"ckpt={trained}/best.ckpt", f"source='{source}'", f"output={output}")


def test_one_bad_video_among_good_ones(
    trained: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_video(folder / "a.mp4", 2)
    (folder / "b.mp4").write_text("[/red] no video")
    encode(folder / "c.mp4", noise(20), "libx264", options={"movflags": "+faststart"})
    content = (folder / "c.mp4").read_bytes()
    (folder / "c.mp4").write_bytes(content[: len(content) // 2])
    write_video(folder / "d.mp4", 2)
    with pytest.raises(SystemExit, match="1"):
        predict_folder(command, trained, str(folder), f"{tmp_path}/out")
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [f"{n}_detections.{s}" for n in "acd" for s in ("jsonl", "mp4")]
    message = capsys.readouterr().err
    assert "2 of 4 videos" in message
    assert "b.mp4" in message
    assert "expected 20 frames" in message
    assert "a.mp4" not in message


def test_videos_of_one_name(trained: Path, tmp_path: Path, command: Command) -> None:
    for folder, frames in (("cam1", 2), ("cam2", 3)):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "video.mp4", frames)
    predict_folder(command, trained, f"{tmp_path}/*/video.mp4", f"{tmp_path}/out")
    counts = {
        path.name: len(path.read_text().splitlines()) for path in (tmp_path / "out").glob("*.jsonl")
    }
    assert counts == {"cam1_video_detections.jsonl": 2, "cam2_video_detections.jsonl": 3}


def test_an_output_never_replaces_a_source(
    trained: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "a.mp4", 2)
    original = write_video(tmp_path / "a_detections.mp4", 2).read_bytes()
    with pytest.raises(SystemExit, match="1"):
        predict_folder(command, trained, str(tmp_path), str(tmp_path))
    assert "a_detections.mp4" in capsys.readouterr().err
    assert (tmp_path / "a_detections.mp4").read_bytes() == original
    assert len(list(tmp_path.iterdir())) == 2
