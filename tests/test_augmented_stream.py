"""Views of a video: each is a stream of its own, and their detections are fused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from test_streaming import DETECTORS, assert_same
from tiny import fusion_of, random_frames, tiny_detector, tiny_two_stage
from vodet.augmented_stream import AugmentedStream
from vodet.data.frames.resize import Letterbox
from vodet.errors import ConfigError
from vodet.inference.view_fusion import fuse_views
from vodet.streaming import StreamingDetector, VideoStream
from vodet.structures import Detections, Window

WINDOW = Window(past=1, future=1)
all_detectors = pytest.mark.parametrize("build", DETECTORS.values(), ids=DETECTORS)


def streamed(stream: VideoStream, frames: torch.Tensor, chunk: int) -> list[Detections]:
    results = [result for part in frames.split(chunk) for result in stream.push(part)]
    results += stream.flush()
    assert [result.frame_index for result in results] == list(range(len(frames)))
    return [result.detections for result in results]


def mirrored(detections: Detections, width: int) -> Detections:
    boxes = detections["boxes"].clone()
    boxes[:, 0], boxes[:, 2] = width - detections["boxes"][:, 2], width - detections["boxes"][:, 0]
    return Detections(boxes=boxes, scores=detections["scores"], labels=detections["labels"])


def assert_equal(found: list[Detections], expected: list[Detections]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert len(a["scores"]) > 3
        for key in ("boxes", "scores", "labels"):
            assert torch.equal(a[key], b[key])


@all_detectors
def test_chunks_agree_and_nothing_is_left_to_the_next_video(build) -> None:
    stream = AugmentedStream(build(WINDOW), flip=True, scales=(1.0, 0.5))
    frames = random_frames(5)
    expected = streamed(stream, frames, 1)
    stream.push(random_frames(4, seed=1))
    stream.reset()
    assert_same(streamed(stream, frames, 3), expected)


@all_detectors
def test_one_view_is_the_plain_stream(build) -> None:
    detector, frames = build(WINDOW), random_frames(4)
    plain = streamed(StreamingDetector(detector, score_threshold=0.1), frames, 2)
    assert_equal(streamed(AugmentedStream(detector, score_threshold=0.1), frames, 2), plain)


@all_detectors
def test_views_are_plain_streams_of_mirrored_and_resized_frames(build) -> None:
    detector, frames = build(WINDOW), random_frames(4, size=(64, 80))
    plain = streamed(StreamingDetector(detector), frames, 2)
    of_flipped = streamed(StreamingDetector(detector), frames.flip(-1), 2)
    flips = [fuse_views([a, mirrored(b, 80)]) for a, b in zip(plain, of_flipped, strict=True)]
    assert_equal(streamed(AugmentedStream(detector, flip=True), frames, 2), flips)

    detector.resize = detector.resize.scaled(0.75)
    small = streamed(StreamingDetector(detector), frames, 2)
    detector.resize = detector.resize.scaled(1 / 0.75)
    both = [fuse_views([a, b]) for a, b in zip(small, plain, strict=True)]
    assert_equal(streamed(AugmentedStream(detector, scales=(0.75, 1.0)), frames, 2), both)


def test_frames_are_mirrored_before_a_letterbox_pads_them() -> None:
    detector = tiny_detector(fusion_of("none"), Window())
    detector.resize = Letterbox(64, 96)
    frames = random_frames(1, size=(40, 44))
    seen = []
    encode = detector.encode
    detector.encode = lambda frames, sizes: (seen.append((frames, sizes)), encode(frames, sizes))[1]
    (found,) = AugmentedStream(detector, flip=True).push(frames)
    (plain, sizes), (flipped, flipped_sizes) = seen
    assert sizes.tolist() == flipped_sizes.tolist() == [[64, 70]]
    assert not plain[..., 70:].any()
    assert not flipped[..., 70:].any()
    difference = plain[..., :70].int() - flipped[..., :70].flip(-1).int()
    assert difference.abs().max() <= 1
    assert found.detections["boxes"][:, 2].max() <= 44


def test_results_come_with_the_lookahead_and_above_the_threshold() -> None:
    detector = tiny_two_stage({}, Window(future=2))
    stream = AugmentedStream(detector, flip=True)
    known = [[a.frame_index for a in stream.push(frame)] for frame in random_frames(4)]
    assert known == [[], [], [0], [1]]
    last = stream.flush()
    assert [result.frame_index for result in last] == [2, 3]
    assert stream.flush() == []

    scores = last[0].detections["scores"]
    threshold = float(scores.median())
    stream = AugmentedStream(detector, flip=True, score_threshold=threshold)
    for frame in random_frames(4):
        stream.push(frame)
    assert torch.equal(stream.flush()[0].detections["scores"], scores[scores >= threshold])


def test_push_resized_takes_frames_of_original_size() -> None:
    detector = tiny_detector(fusion_of("mean"), Window())
    frames = random_frames(2, size=(50, 70))
    padded = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
    padded[..., :50, :70] = frames
    stream = AugmentedStream(detector, flip=True)
    results = [result.detections for result in stream.push_resized(padded, (50, 70), (50, 70))]
    assert_equal(results, streamed(AugmentedStream(detector, flip=True), frames, 2))
    with pytest.raises(ConfigError, match=r"original size, .*\(100, 140\), found \(50, 70\)"):
        stream.push_resized(frames, (100, 140), (50, 70))


@pytest.mark.parametrize("scales", [(), (1.0, 1.0), (0.0,), (-1.0, 1.0), (float("nan"),)])
def test_impossible_scales(scales: tuple[float, ...]) -> None:
    detector = tiny_detector(fusion_of("none"), Window())
    with pytest.raises(ConfigError, match=r"scales.* positive.* distinct.*found \["):
        AugmentedStream(detector, scales=scales)


def test_refused_frames_change_nothing() -> None:
    detector = tiny_detector(fusion_of("mean"), Window(past=1))
    frames = random_frames(4)
    expected = streamed(AugmentedStream(detector, flip=True), frames, 2)
    stream = AugmentedStream(detector, flip=True)
    results = stream.push(frames[:2])
    with pytest.raises(ConfigError, match="must have the same size"):
        stream.push(random_frames(1, size=(64, 96)))
    with pytest.raises(ConfigError, match="Expected uint8 RGB"):
        stream.push(np.zeros((8, 8), np.uint8))
    results += stream.push(frames[2:]) + stream.flush()
    assert_equal([result.detections for result in results], expected)
