"""detector.predict: one interface for videos and images."""

from __future__ import annotations

import collections
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from inference.made_videos import encode, noise, write_image, write_video
from tiny import fusion_of, random_frames, tiny_detector
from vodet.augmented_stream import AugmentedStream
from vodet.detector import VideoDetector
from vodet.errors import ConfigError, FrameError
from vodet.inference.predicted_frame import PredictedFrame
from vodet.inference.sources import open_source
from vodet.inference.streams import RescoringStream
from vodet.inference.tubelet_linking import link_video
from vodet.streaming import StreamingDetector
from vodet.structures import Detections, Window


@pytest.fixture(scope="module")
def detector() -> VideoDetector:
    made = tiny_detector(fusion_of("mean"), Window(past=1, future=1))
    with torch.no_grad():
        made.head.heatmap.out.bias.add_(1.4)  # some scores above 0.3, some below
    return made


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return random_frames(5).permute(0, 2, 3, 1).numpy()


@pytest.fixture
def images(frames: np.ndarray, tmp_path: Path) -> Path:
    for number, frame in enumerate(frames):
        write_image(tmp_path / "street" / f"{number}.png", frame)
    return tmp_path / "street"


def streamed(detector: VideoDetector, frames: np.ndarray) -> list[Detections]:
    stream = StreamingDetector(detector, score_threshold=0.3)
    return [result.detections for result in stream.push(frames) + stream.flush()]


def assert_same(found: list[PredictedFrame], expected: list[Detections]) -> None:
    assert len(found) == len(expected)
    for frame, detections in zip(found, expected, strict=True):
        assert len(detections["scores"]) > 3
        for key in ("boxes", "scores", "labels"):
            torch.testing.assert_close(frame.detections[key], detections[key], rtol=1e-4, atol=1e-3)


def test_frames_of_every_kind_of_video(
    detector: VideoDetector, frames: np.ndarray, images: Path
) -> None:
    expected = streamed(detector, frames)
    sources: dict[str, Any] = {
        "folder": images,
        "glob": f"{images}/*.png",
        "array": frames,
        "tensor": torch.from_numpy(frames).permute(0, 3, 1, 2),
        "iterator": iter(frames),
        "PIL images": (Image.fromarray(frame) for frame in frames),
    }
    for name, source in sources.items():
        for chunk_size in (1, 3):
            if chunk_size == 3 and isinstance(source, Iterator):
                continue
            found = list(detector.predict(source, chunk_size=chunk_size, fps=10))
            assert_same(found, expected)
            assert [frame.index for frame in found] == [0, 1, 2, 3, 4]
            assert [frame.time for frame in found] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
            for frame, image in zip(found, frames, strict=True):
                assert (frame.image == image).all(), name
                assert frame.class_names == detector.class_names
    named = list(detector.predict(images))
    assert {frame.video for frame in named} == {"street"}
    assert named[4].name == "4.png"


def test_times_are_those_of_the_file(detector: VideoDetector, tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", noise(4), "libx264", times=[7, 8, 10, 30])
    found = list(detector.predict(str(path)))
    assert [frame.time for frame in found] == pytest.approx([0, 0.04, 0.12, 0.92])
    pixels = [frame.pixels for frame in open_source(path)]
    assert all((a.image == b).all() for a, b in zip(found, pixels, strict=True))


def test_a_still_is_a_video_of_one_frame(
    detector: VideoDetector, frames: np.ndarray, images: Path
) -> None:
    stills: list[Any] = [
        images / "2.png",
        str(images / "2.png"),
        frames[2],
        torch.from_numpy(frames[2]).permute(2, 0, 1),
        Image.fromarray(frames[2]),
    ]
    expected = streamed(detector, frames[2:3])
    for still in stills:
        assert_same([detector.predict(still)], expected)
        assert_same([detector.predict(still, tubelet_linking="rescore")], expected)
    several = detector.predict([*stills, frames[3]])
    assert_same(several, expected * len(stills) + streamed(detector, frames[3:4]))
    assert [frame.video for frame in several] == ["2", "2", "2", "3", "4", "5"]
    assert {(frame.index, frame.time) for frame in several} == {(0, 0.0)}
    assert detector.predict([]) == []


def test_stills_may_differ_in_size(detector: VideoDetector) -> None:
    sizes = [(64, 64), (48, 96)]
    found = detector.predict([np.zeros((*size, 3), np.uint8) for size in sizes])
    assert [frame.image.shape[:2] for frame in found] == sizes


def test_images_are_upright(detector: VideoDetector, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # show turned by 90 degrees
    Image.new("RGB", (96, 64)).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as opened:
        for source in (tmp_path / "a.jpg", opened):
            assert detector.predict(source).image.shape == (96, 64, 3)


def test_modes_of_pil_images(detector: VideoDetector, tmp_path: Path) -> None:
    for mode in ("1", "L", "P", "LA", "RGBA", "CMYK"):
        assert detector.predict(Image.new(mode, (64, 48))).image.shape == (48, 64, 3)
    for mode in ("I;16", "F"):
        with pytest.raises(ConfigError, match=rf"8 bits per channel; found .* of mode {mode}"):
            detector.predict(Image.new(mode, (64, 48)))
    Image.fromarray(noise(1)[0]).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with Image.open(tmp_path / "a.png") as opened, pytest.raises(FrameError, match=r"a\.png"):
        detector.predict(opened)


def test_an_endless_source_is_read_frame_by_frame(
    detector: VideoDetector, frames: np.ndarray
) -> None:
    read = 0

    def camera() -> Iterator[np.ndarray]:
        nonlocal read
        buffer = np.empty_like(frames[0])
        for number in count():
            read += 1
            buffer[:] = frames[number % 5]
            yield buffer  # the same memory each time

    for frame in islice(detector.predict(camera(), tubelet_linking="rescore_online"), 12):
        assert read == frame.index + 1 + detector.window.lookahead
        assert (frame.image == frames[frame.index % 5]).all()
    assert frame.index == 11


@pytest.mark.parametrize("linking", ["rescore_online", "rescore", "seq_nms"])
def test_linking(detector: VideoDetector, frames: np.ndarray, images: Path, linking: str) -> None:
    stream = StreamingDetector(detector)
    if linking == "rescore_online":
        online = RescoringStream(stream)
        results = online.push(frames) + online.flush()
        expected = [result.detections for result in results]
    else:
        results = stream.push(frames) + stream.flush()
        expected = link_video([result.detections for result in results], linking)
    for source in (images, frames):
        found = list(detector.predict(source, tubelet_linking=linking, score_threshold=0.0))
        assert_same(found, expected)
        assert all((a.image == b).all() for a, b in zip(found, frames, strict=True))


def test_an_iterator_cannot_be_read_twice(detector: VideoDetector, frames: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"tubelet_linking=seq_nms .* rescore_online"):
        detector.predict(iter(frames), tubelet_linking="seq_nms")


def test_views(detector: VideoDetector, frames: np.ndarray) -> None:
    stream = AugmentedStream(detector, flip=True, scales=(1.5,), score_threshold=0.3)
    expected = [result.detections for result in stream.push(frames) + stream.flush()]
    views = {"flip": True, "scales": [1.5]}
    assert_same(list(detector.predict(frames, test_time_augmentation=views)), expected)


def test_thresholds_and_classes(detector: VideoDetector, frames: np.ndarray) -> None:
    every = detector.predict(frames[0], score_threshold=0.0).detections
    scores, labels = every["scores"], every["labels"]

    def count_of(**options: Any) -> list[int]:
        found = detector.predict(frames[0], **options).detections
        return [int((found["labels"] == label).sum()) for label in range(3)]

    def expected(*thresholds: float) -> list[int]:
        rows = [(labels == label) & (scores >= least) for label, least in enumerate(thresholds)]
        return [int(row.sum()) for row in rows]

    best = scores[labels == 1].max().item()  # the threshold is inclusive
    cases: list[tuple[dict[str, Any], tuple[float, float, float]]] = [
        ({"score_threshold": best}, (best, best, best)),
        ({"score_threshold": {"dog": 0.4}}, (0.3, 0.4, 0.3)),
        ({"score_threshold": 0.0, "classes": ["kite", "car"]}, (0.0, 2.0, 0.0)),
        ({"score_threshold": {"car": 0}, "classes": "car"}, (0.0, 2.0, 2.0)),
    ]
    for options, thresholds in cases:
        assert count_of(**options) == expected(*thresholds), options
    assert len({tuple(count_of(**options)) for options, _ in cases}) == len(cases)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["car", "dgo"]}, "no class 'dgo'. Did you mean 'dog'.*car, dog, kite"),
        ({"classes": []}, "at least one class"),
        ({"score_threshold": {"Car": 0.5}}, "score_threshold: .*'Car'. Did you mean 'car'"),
        ({"score_threshold": math.nan}, "score_threshold must be a number, found nan"),
        ({"tubelet_linking": "seq"}, "found 'seq'"),
        ({"test_time_augmentation": {"mirror": True}}, "flip and scales, found 'mirror'"),
        ({"test_time_augmentation": {"scales": [0]}}, r"found \[0.0\]"),
        ({"chunk_size": 0}, "chunk_size must be a whole number and at least 1, found 0"),
        ({"fps": 0}, "fps must be a finite number above 0, found 0"),
    ],
)
def test_wrong_options(
    options: dict[str, Any], message: str, detector: VideoDetector, frames: np.ndarray
) -> None:
    with pytest.raises(ConfigError, match=message):
        detector.predict(iter(frames), **options)  # before the first frame


@pytest.mark.parametrize("source", [0, None, 1.5])
def test_a_source_of_another_type(source: Any, detector: VideoDetector) -> None:
    with pytest.raises(ConfigError, match=rf"path of a video.* found a {type(source).__name__}"):
        detector.predict(source)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (np.zeros((8, 8), np.uint8), r"\(8, 8\) of uint8"),
        ([np.zeros((8, 8, 3), np.float32)], r"\(8, 8, 3\) of float32"),
        ([np.zeros((2, 8, 8, 3), np.uint8)], r"2 frames"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"\(0, 8, 8, 3\)"),
    ],
)
def test_images_of_another_type(source: Any, found: str, detector: VideoDetector) -> None:
    with pytest.raises(ConfigError, match=found):
        detector.predict(source)


def test_values_of_another_type() -> None:
    # In a process of its own, since the types of arguments are checked in this one.
    code = """
import numpy as np
from tiny import fusion_of, tiny_detector
from vodet import Window
detector = tiny_detector(fusion_of("none"), Window())
frame = np.zeros((64, 64, 3), np.uint8)
for source, options in (
    ([None], {}),
    ({"a": frame}, {}),
    (frame, {"score_threshold": "low"}),
    (frame, {"score_threshold": {"car": None}}),
    (frame, {"fps": "25"}),
):
    try:
        list(detector.predict(source, **options))
    except ValueError as error:
        print(error)
"""
    folder = Path(__file__).parent
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    found = [line.rpartition("found ")[2] for line in ended.stdout.splitlines()]
    assert found == ["a NoneType.", "a str.", "low.", "None.", "25."], ended.stderr


def test_unreadable_sources(detector: VideoDetector, images: Path, tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_text("no video")
    (tmp_path / "b.png").write_text("no image")
    for source in (tmp_path / "nowhere.mp4", tmp_path / "b.mp4", tmp_path / "b.png"):
        with pytest.raises(FrameError, match=source.name):  # at once
            detector.predict(source)
    (images / "3.png").write_bytes(b"torn")
    predicted = detector.predict(images)
    assert [frame.index for frame in islice(predicted, 2)] == [0, 1]
    with pytest.raises(FrameError, match=r"3\.png"):
        list(predicted)
    with pytest.raises(FrameError, match="at least one frame"):
        list(detector.predict(iter(())))
    sizes = [np.zeros((64, 64, 3), np.uint8), np.zeros((48, 64, 3), np.uint8)]
    with pytest.raises(FrameError, match=r"\(64, 64\).*\(48, 64\) in frame 000001"):
        list(detector.predict(iter(sizes)))


def test_videos_of_a_folder(detector: VideoDetector, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 2)
    (tmp_path / "b.mp4").write_text("no video")
    options = {"movflags": "+faststart"}
    content = encode(tmp_path / "c.mp4", noise(20), "libx264", options=options).read_bytes()
    (tmp_path / "c.mp4").write_bytes(content[: len(content) // 2])
    write_video(tmp_path / "d.mp4", 3)
    found: list[PredictedFrame] = []
    with pytest.raises(FrameError, match=r"2 of 4 videos[\s\S]*b\.mp4[\s\S]*expected 20 frames"):
        collections.deque(map(found.append, detector.predict(tmp_path)))
    by_video = {name: [f.index for f in found if f.video == name] for name in "abcd"}
    assert by_video["a"] == [0, 1]
    assert by_video["b"] == []
    assert by_video["d"] == [0, 1, 2]
    assert by_video["c"] == list(range(len(by_video["c"])))
    assert 5 < len(by_video["c"]) < 15


def test_training_mode_is_an_error(frames: np.ndarray) -> None:
    detector = tiny_detector(fusion_of("none"), Window()).train()
    with pytest.raises(ConfigError, match=r"training mode.*eval\(\)"):
        detector.predict(frames[0])


def test_stopping_early_ends_the_reading_thread(detector: VideoDetector, images: Path) -> None:
    for frame in detector.predict(images):
        assert frame.index == 0
        assert any("vodet-frames" in thread.name for thread in threading.enumerate())
        break
    assert not any("vodet-frames" in thread.name for thread in threading.enumerate())


def test_bgr_views_are_accepted(detector: VideoDetector, frames: np.ndarray) -> None:
    bgr = cv2.cvtColor(frames[0], cv2.COLOR_RGB2BGR)
    assert_same([detector.predict(bgr[..., ::-1])], streamed(detector, frames[:1]))
