from __future__ import annotations

import io
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from inference.made_videos import encode, noise
from vodet.errors import ConfigError, FrameError, OutputError
from vodet.inference.prediction import predict_video
from vodet.inference.reading import FrameSource
from vodet.inference.sources import open_source
from vodet.inference.streams import processed_frames
from vodet.screen import Screen
from vodet.structures import Detections, FrameDetections

CLASSES = ("car", "dog")


class LateStream:
    """Answers two frames late; finds a dog as far right as the frame is grey, and a faint car."""

    lookahead = 2

    def __init__(self, scale: float = 1.0) -> None:
        self.greys: list[int] = []
        self.processed = 0
        self.scale = scale

    def push(self, frames: np.ndarray, /) -> list[FrameDetections]:
        self.greys += frames[:, 0, 0, 0].tolist()
        return self.result(len(self.greys) - self.lookahead)

    def flush(self) -> list[FrameDetections]:
        return self.result(len(self.greys))

    def result(self, end: int) -> list[FrameDetections]:
        ready = range(self.processed, max(end, self.processed))
        self.processed = ready.stop
        return [FrameDetections(index, self.detect(self.greys[index])) for index in ready]

    def detect(self, grey: int) -> Detections:
        return Detections(
            boxes=torch.tensor([[grey, 40.126, grey + 30, 70], [0, 0, 9, 9]]),
            scores=torch.tensor([0.8, 0.07]) * self.scale,
            labels=torch.tensor([1, 0]),
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clip").mkdir()
    for number in range(7):
        frame = np.full((81, 120, 3), 10 * number, np.uint8)
        cv2.imwrite(str(tmp_path / "clip" / f"{number}.png"), frame)
    return tmp_path / "clip"


def test_results_meet_their_frames_and_no_more_are_held(folder: Path) -> None:
    stream = LateStream()
    for number, (frame, detections) in enumerate(processed_frames(stream, open_source(folder))):
        assert frame.name == f"{number}.png"
        assert detections["boxes"][0, 0] == frame.pixels[0, 0, 0] == 10 * number
        assert len(stream.greys) - number <= stream.lookahead + 1
    assert number == 6


def test_writes_video_and_lines(folder: Path, tmp_path: Path) -> None:
    console = Screen(file=io.StringIO(), width=100)
    out = tmp_path / "out"
    result = predict_video(LateStream(), open_source(folder), out, CLASSES, console=console)
    assert (result.num_frames, result.num_detections) == (7, 7)
    assert sorted(out.iterdir()) == [result.detections, result.video]
    lines = [json.loads(line) for line in result.detections.read_text().splitlines()]
    assert lines == [
        {
            "frame": number,
            "name": f"{number}.png",
            "detections": [
                {"box": [10 * number, 40.13, 10 * number + 30, 70], "score": 0.8, "label": "dog"}
            ],
        }
        for number in range(7)
    ]
    with av.open(str(result.video)) as container:
        assert container.streams.video[0].average_rate == 25
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(82, 120, 3)] * 7
    for number, frame in enumerate(frames):  # the drawn box is where it was found
        edge, grey = frame[55, 10 * number].astype(int), 10 * number
        assert edge[2] - edge[0] > 40
        assert np.abs(frame[10, 100].astype(int) - grey).max() < 12
    printed = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "7 frames in " in printed
    assert "7 detections" in printed
    assert str(result.video) in printed
    assert str(result.detections) in printed
    assert "Nothing found" not in printed


class FlickeringStream(LateStream):
    """Finds one dog in every frame, by turns with more and less certainty."""

    def detect(self, grey: int) -> Detections:
        return Detections(
            boxes=torch.tensor([[20.0, 30, 60, 70]]),
            scores=torch.tensor([0.2 if grey % 20 else 0.6]),
            labels=torch.tensor([1]),
        )


@pytest.mark.parametrize(
    ("linking", "expected"),
    [
        ("none", [0.6, None, 0.6, None, 0.6, None, 0.6]),
        ("seq_nms", [3 / 7] * 7),
        ("rescore", [(0.6 + 3 / 7) / 2, (0.2 + 3 / 7) / 2] * 3 + [(0.6 + 3 / 7) / 2]),
        (
            "rescore_online",
            [0.6, 0.3, (0.6 + 1.4 / 3) / 2, 0.3, (0.6 + 2.2 / 5) / 2, 0.3, (0.6 + 3 / 7) / 2],
        ),
    ],
)
def test_detections_are_linked_before_the_threshold(
    linking: str, expected: list[float | None], folder: Path, tmp_path: Path
) -> None:
    console = Screen(file=io.StringIO(), width=100)
    result = predict_video(
        FlickeringStream(),
        open_source(folder),
        tmp_path,
        CLASSES,
        score_threshold=0.295,
        chunk_size=3,
        tubelet_linking=linking,
        console=console,
    )
    lines = [json.loads(line) for line in result.detections.read_text().splitlines()]
    found = [[detection["score"] for detection in line["detections"]] for line in lines]
    assert found == [[] if score is None else [round(score, 4)] for score in expected]
    assert [line["name"] for line in lines] == [f"{number}.png" for number in range(7)]
    with av.open(str(result.video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for number, frame in enumerate(frames):
        assert np.abs(frame[10, 100].astype(int) - 10 * number).max() < 12
    bars = {line.split()[0] for line in console.file.getvalue().splitlines() if "7/7" in line}  # type: ignore[attr-defined]  # a StringIO
    two_passes = linking in ("seq_nms", "rescore")
    assert bars == ({"clip:"} if two_passes else {"clip"})


def test_a_video_that_cannot_be_read_again(folder: Path, tmp_path: Path) -> None:
    frames = open_source(folder).open()
    once = FrameSource("camera", None, None, lambda: frames)
    arguments = (LateStream(), once, tmp_path / "out", CLASSES)
    console = Screen(file=io.StringIO())
    with pytest.raises(FrameError, match=r"Expected 7 frames when reading camera.*found fewer"):
        predict_video(*arguments, tubelet_linking="rescore", console=console)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unknown_linking(folder: Path, tmp_path: Path) -> None:
    arguments = (LateStream(), open_source(folder), tmp_path / "out", CLASSES)
    with pytest.raises(ConfigError, match="found 'seq'"):
        predict_video(*arguments, tubelet_linking="seq")


def test_says_why_nothing_was_found(folder: Path, tmp_path: Path) -> None:
    console = Screen(file=io.StringIO(), width=200)
    result = predict_video(LateStream(0.1), open_source(folder), tmp_path, CLASSES, console=console)
    assert result.num_detections == 0
    printed = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "the highest score was 0.08 for class dog" in printed
    assert "score_threshold=0.3" in printed


def test_failure_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "5.png").write_bytes(b"torn")
    console = Screen(file=io.StringIO())
    with pytest.raises(FrameError, match=r"5\.png"):
        predict_video(LateStream(), open_source(folder), tmp_path / "out", CLASSES, console=console)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_file_says_of_its_pictures_reaches_the_output(tmp_path: Path) -> None:
    frames = [np.full((64, 96, 3), 10 * number, np.uint8) for number in range(5)]
    aspect = Fraction(16, 11)
    path = encode(
        tmp_path / "a.mkv", frames, "libx264", times=[7, 8, 10, 30, 31], sample_aspect_ratio=aspect
    )
    console = Screen(file=io.StringIO())
    result = predict_video(LateStream(), open_source(path), tmp_path, CLASSES, console=console)
    written = open_source(result.video)
    times = [float(frame.time or 0) for frame in written]
    assert times == pytest.approx([0, 0.04, 0.12, 0.92, 0.96])
    assert written.pixel_aspect == aspect


@pytest.mark.parametrize("linking", ["none", "rescore"])
def test_a_video_that_is_cut_short(linking: str, tmp_path: Path) -> None:
    options = {"movflags": "+faststart"}
    path = encode(tmp_path / "a.mp4", noise(20), "libx264", options=options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    console = Screen(file=io.StringIO(), width=100)
    result = predict_video(
        LateStream(), open_source(path), tmp_path, CLASSES, tubelet_linking=linking, console=console
    )
    count = len(list(open_source(result.video)))
    assert 5 < count == result.num_frames == len(result.detections.read_text().splitlines()) < 15
    (fault,) = [fault for fault in result.faults if "expected 20 frames" in fault]
    assert str(count) in fault


def test_names_are_data(folder: Path, tmp_path: Path) -> None:
    (folder / "0.png").rename(folder / "0\udcff\x1b[31m.png")
    console = Screen(file=io.StringIO(), width=200, force_terminal=True)
    source = replace(open_source(folder), name="[/red] :car:\x1b[31m")
    classes = ("[/red]\x1b[31m", "[bold]\x1b[31m")
    result = predict_video(LateStream(0.1), source, tmp_path / "[o]", classes, console=console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    for text in (r"[/red] :car:\x1b[31m", r"[bold]\x1b[31m", "/[o]/"):
        assert text in printed
    assert "\x1b[31m" not in printed
    names = [json.loads(line)["name"] for line in result.detections.read_text().splitlines()]
    assert names[0] == "0\\xff\x1b[31m.png"


def test_files_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        console = Screen(file=io.StringIO())
        with pytest.raises(OutputError, match="clip_detections"):
            predict_video(LateStream(), open_source(folder), target, CLASSES, console=console)
    assert (tmp_path / "file").read_text() == ""
