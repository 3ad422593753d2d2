"""The detections of a frame do not depend on how the video was fed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from tiny import frame_info, fusion_names, fusion_of, random_frames, tiny_detector
from vodet.detector import VideoDetector
from vodet.errors import ConfigError
from vodet.streaming import StreamingDetector
from vodet.structures import ClipBatch, Detections, FrameDetections, Window

WINDOWS = [Window(), Window(past=1), Window(past=2, frame_stride=2), Window(past=1, future=2)]


assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-4)


def by_place(detections: Detections) -> torch.Tensor:
    """An order that rounding does not change, as it does that of scores that are nearly equal."""
    place = detections["boxes"] @ torch.tensor([1.0, 2.3, 5.1, 11.7])
    return (place + 1000 * detections["scores"]).argsort()


def assert_same(found: Sequence[Detections], expected: Sequence[Detections]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert len(b["scores"]) > 3
        assert_close(a["scores"], b["scores"])
        a_order, b_order = by_place(a), by_place(b)
        for key in ("boxes", "scores", "labels"):
            assert_close(a[key][a_order], b[key][b_order])


@torch.inference_mode()
def clips_of(detector: VideoDetector, frames: torch.Tensor) -> ClipBatch:
    offsets = detector.window.offsets
    last = len(frames) - 1
    rows = [[min(max(i + o, 0), last) for o in offsets] for i in range(len(frames))]
    return ClipBatch(
        frames=frames[torch.tensor(rows)],
        infos=tuple(tuple(frame_info(number=row) for row in clip) for clip in rows),
        targets=(),
        reference=detector.window.reference,
    )


def streamed(detector: VideoDetector, frames: torch.Tensor, chunk: int) -> list[FrameDetections]:
    stream = StreamingDetector(detector)
    answers = []
    for part in frames.split(chunk):
        answers += stream.push(part)
    answers += stream.flush()
    assert [answer.frame_index for answer in answers] == list(range(len(frames)))
    return answers


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("fusion", fusion_names())
def test_clips_stream_and_chunks_agree(fusion: str, window: Window) -> None:
    detector = tiny_detector(fusion_of(fusion), window)
    frames = random_frames(9)
    with torch.inference_mode():
        expected = detector(clips_of(detector, frames))
    for chunk in (1, 3, 8):
        assert_same([a.detections for a in streamed(detector, frames, chunk)], expected)


@pytest.mark.parametrize("fusion", fusion_names())
def test_videos_side_by_side_do_not_see_each_other(fusion: str) -> None:
    detector = tiny_detector(fusion_of(fusion), Window(past=1, future=1))
    videos = [random_frames(5, seed=1), random_frames(5, seed=2)]
    streams = [StreamingDetector(detector), StreamingDetector(detector)]
    answers: list[list[FrameDetections]] = [[], []]
    for pair in zip(*videos, strict=True):
        for stream, frame, found in zip(streams, pair, answers, strict=True):
            found += stream.push(frame)
    for stream, video, found in zip(streams, videos, answers, strict=True):
        found += stream.flush()
        alone = [answer.detections for answer in streamed(detector, video, 1)]
        assert_same([answer.detections for answer in found], alone)
    clips = [clips_of(detector, video) for video in videos]
    batch = ClipBatch(
        frames=torch.cat([clip.frames for clip in clips]),
        infos=clips[0].infos + clips[1].infos,
        targets=(),
        reference=1,
    )
    with torch.inference_mode():
        together = detector(batch)
    assert_same(together, [answer.detections for found in answers for answer in found])


def test_flush_and_reset_begin_a_new_video() -> None:
    detector = tiny_detector(fusion_of("stf"), Window(past=1))
    first, second = random_frames(3, seed=1), random_frames(3, seed=2)
    stream = StreamingDetector(detector)
    stream.push(first)
    assert stream.flush() == []
    again = stream.push(second)
    stream.reset()
    stream.push(first[:1])
    stream.reset()
    once_more = stream.push(second)
    expected = [answer.detections for answer in streamed(detector, second, 3)]
    for answers in (again, once_more):
        assert [answer.frame_index for answer in answers] == [0, 1, 2]
        assert_same([answer.detections for answer in answers], expected)


def test_answers_come_when_the_lookahead_is_filled() -> None:
    detector = tiny_detector(fusion_of("mean"), Window(past=1, future=2, frame_stride=2))
    stream = StreamingDetector(detector)
    known = [[a.frame_index for a in stream.push(frame)] for frame in random_frames(6)]
    assert known == [[], [], [], [], [0], [1]]
    assert [answer.frame_index for answer in stream.flush()] == [2, 3, 4, 5]


def test_each_frame_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny_detector(fusion_of("stf"), Window(past=3, future=1))
    encoded = []
    encode = detector.encode
    monkeypatch.setattr(
        detector,
        "encode",
        lambda frames, sizes: (encoded.append(len(frames)), encode(frames, sizes))[1],
    )
    streamed(detector, random_frames(10), 3)
    assert encoded == [3, 3, 3, 1]


def test_memory_does_not_grow_with_the_video() -> None:
    detector = tiny_detector(fusion_of("mean"), Window(past=2, future=1, frame_stride=2))
    stream = StreamingDetector(detector)
    held = []
    for frame in random_frames(40):
        stream.push(frame)
        held.append((len(stream._ring), len(stream._sizes)))
    assert set(held[10:]) == {(7, 2)}


def test_arrays_and_tensors_and_any_size_give_original_pixels() -> None:
    detector = tiny_detector(fusion_of("none"), Window())
    frame = random_frames(1, size=(50, 70))
    array = np.ascontiguousarray(frame[0].permute(1, 2, 0).numpy())
    stream = StreamingDetector(detector)
    answers = [
        stream.push(frames)[0].detections for frames in (frame, frame[0], array, array[None])
    ]
    for a, b in pairwise(answers):
        assert_same([a], [b])
    boxes = answers[0]["boxes"]
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 70
    assert boxes[:, 3].max() <= 50
    threshold = float(answers[0]["scores"].median())
    stream = StreamingDetector(detector, score_threshold=threshold)
    (answer,) = stream.push(frame)
    assert answer.detections["scores"].min() >= threshold


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((3, 8, 8), np.uint8),
        torch.zeros((8, 8, 3), dtype=torch.uint8),
    ],
)
def test_frames_of_another_kind_are_refused(frames: np.ndarray | torch.Tensor) -> None:
    stream = StreamingDetector(tiny_detector(fusion_of("none"), Window()))
    with pytest.raises(ConfigError, match=r"Expected uint8 RGB frames.*found a"):
        stream.push(frames)
