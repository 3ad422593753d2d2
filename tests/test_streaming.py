"""The detections of a frame do not depend on how the video was fed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from tiny import (
    candidate_fusion_names,
    candidate_fusions_of,
    frame_info,
    fusion_names,
    fusion_of,
    random_frames,
    tiny_detector,
    tiny_one_stage,
    tiny_two_stage,
    unlinked_fusion_names,
)
from tiny_detr import tiny_detr
from vodet.detector import VideoDetector
from vodet.encodings import Memory, WindowBatch
from vodet.errors import ConfigError
from vodet.streaming import StreamingDetector
from vodet.structures import ClipBatch, ClipLayout, Detections, FrameDetections, Window

WINDOWS = [Window(), Window(past=1), Window(past=2, frame_stride=2), Window(past=1, future=2)]


def _two_stage(name: str, *arguments: Any) -> VideoDetector:
    *fusion, window = arguments
    return tiny_two_stage(name, window, *fusion)


def _one_stage(name: str, *arguments: Any, **head: Any) -> VideoDetector:
    *fusion, window = arguments
    return tiny_one_stage(name, window, *fusion, **head)


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


# Every detector: map fusions before the heads with maps, candidate fusions in the heads that have
# candidates, both together.
DETECTORS: dict[str, Callable[[Window], VideoDetector]] = {
    **{f"centernet {name}": partial(tiny_detector, fusion_of(name)) for name in fusion_names()},
    **{f"two-stage {name}": partial(_two_stage, name) for name in candidate_fusion_names()},
    **{f"one-stage {name}": partial(_one_stage, name) for name in unlinked_fusion_names()},
    "one-stage yolov_pp, no suppression": partial(_one_stage, "yolov_pp", candidate_nms_iou=None),
    "one-stage yolov, map fusion stf": partial(_one_stage, "yolov", fusion_of("stf")),
    **{
        f"detr {name}": partial(tiny_detr, name, precise=True, size_divisor=32)
        for name in unlinked_fusion_names()
    },
    "two-stage, map fusion mean": partial(_two_stage, "none", fusion_of("mean")),
    "two-stage sltnet, map fusion stf": partial(_two_stage, "sltnet", fusion_of("stf")),
}


@torch.inference_mode()
def clips_of(detector: VideoDetector, frames: torch.Tensor) -> ClipBatch:
    rows = [detector.window.positions(i, len(frames)) for i in range(len(frames))]
    return ClipBatch(
        frames=frames[torch.tensor(rows)],
        infos=tuple(tuple(frame_info(number=row) for row in clip) for clip in rows),
        targets=(),
        layout=ClipLayout.of_window(len(rows[0]), detector.window.reference),
    )


@torch.inference_mode()
def stepped(detector: VideoDetector, videos: Sequence[torch.Tensor]) -> list[list[Detections]]:
    """Clips of videos of one length, side by side, each with the memory of its video."""
    clips = [clips_of(detector, video).frames for video in videos]
    memory: Memory | None = None
    found: list[list[Detections]] = [[] for _ in videos]
    for at_once in zip(*clips, strict=True):
        frames = detector.encode(torch.cat(at_once))
        memory = memory or detector.begin(len(videos), frames)
        windows = WindowBatch.of_clips(frames, len(at_once[0]), detector.window.reference)
        outputs, memory = detector.step(windows, memory)
        sizes = [((64, 64), (64, 64))] * len(videos)
        for own, detections in zip(found, detector.decode(outputs, sizes), strict=True):
            own.append(detections)
    return found


def streamed(detector: VideoDetector, frames: torch.Tensor, chunk: int) -> list[FrameDetections]:
    stream = StreamingDetector(detector)
    results = []
    for part in frames.split(chunk):
        results += stream.push(part)
    results += stream.flush()
    assert [result.frame_index for result in results] == list(range(len(frames)))
    return results


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("build", DETECTORS.values(), ids=DETECTORS)
def test_clips_stream_and_chunks_agree(build, window: Window) -> None:
    detector = build(window)
    frames = random_frames(9)
    (expected,) = stepped(detector, [frames])
    if not detector.remembers:
        with torch.inference_mode():
            assert_same(detector(clips_of(detector, frames)), expected)
    for chunk in (1, 3, 8):
        assert_same([a.detections for a in streamed(detector, frames, chunk)], expected)


@pytest.mark.parametrize("build", DETECTORS.values(), ids=DETECTORS)
def test_videos_side_by_side_do_not_see_each_other(build) -> None:
    detector = build(Window(past=1, future=1))
    videos = [random_frames(5, seed=1), random_frames(5, seed=2)]
    streams = [StreamingDetector(detector), StreamingDetector(detector)]
    results: list[list[FrameDetections]] = [[], []]
    for pair in zip(*videos, strict=True):
        for stream, frame, found in zip(streams, pair, results, strict=True):
            found += stream.push(frame)
    together = stepped(detector, videos)
    for stream, video, found, own in zip(streams, videos, results, together, strict=True):
        found += stream.flush()
        alone = [result.detections for result in streamed(detector, video, 1)]
        assert_same([result.detections for result in found], alone)
        assert_same(own, alone)


@pytest.mark.parametrize("build", DETECTORS.values(), ids=DETECTORS)
def test_a_video_leaves_nothing_to_the_next(build) -> None:
    detector = build(Window(past=2, future=1))
    first, second = random_frames(6, seed=1), random_frames(5, seed=2)
    stream = StreamingDetector(detector)
    stream.push(first)
    stream.flush()
    results = stream.push(second) + stream.flush()
    expected = [result.detections for result in streamed(detector, second, 2)]
    assert_same([result.detections for result in results], expected)


@pytest.mark.parametrize(
    "name",
    [
        *(f"two-stage {name}" for name in ("max", "adaptive", "sltnet", "yolov", "yolov_pp")),
        *(f"one-stage {name}" for name in ("selsa", "yolov", "yolov_pp")),
    ],
)
def test_the_window_matters(name: str) -> None:
    build = DETECTORS[name]
    frames = random_frames(5)
    alone = streamed(build(Window()), frames, 5)[2].detections
    joined = streamed(build(Window(past=2, future=2)), frames, 5)[2].detections
    pairs = zip(alone["scores"][:20], joined["scores"][:20], strict=False)
    assert max(abs(a - b) for a, b in pairs) > 1e-3


@pytest.mark.parametrize("name", ["long_term", "sltnet"])
def test_the_memory_matters_and_is_bounded(name: str) -> None:
    detector = _two_stage(name, Window(past=1))
    frames = random_frames(12)
    late = streamed(detector, frames, 4)[-1].detections
    early = streamed(detector, frames[-2:], 2)[-1].detections  # the same window, another past
    assert (late["scores"][:20] - early["scores"][:20]).abs().max() > 1e-3

    stream = StreamingDetector(detector)
    stream.push(frames)
    state = stream._memory.states["head"]  # every second of 12 frames, but at most 3
    assert state["attention.features"].shape == (1, 3, 6, 16)
    assert state["attention.is_valid"].all()


@pytest.mark.parametrize(
    ("interval", "most", "kept"),
    [(100, 3, 1), (2, 50, 3), (1, 50, 5)],  # longer than the video; more than it has
)
def test_any_number_of_key_frames_will_do(interval: int, most: int, kept: int) -> None:
    fusions = candidate_fusions_of(
        "long_term",
        f"model.head.fusion.attention.key_frame_interval={interval}",
        f"model.head.fusion.attention.num_key_frames={most}",
    )
    detector = tiny_two_stage(fusions, Window())
    stream = StreamingDetector(detector)
    results = stream.push(random_frames(5))
    is_valid = stream._memory.states["head"]["attention.is_valid"]
    assert is_valid.shape[1] == most
    assert int(is_valid.any(dim=2).sum()) == kept
    (expected,) = stepped(detector, [random_frames(5)])
    assert_same([result.detections for result in results], expected)


def test_memory_is_flat_over_a_long_video() -> None:
    detector = _two_stage("sltnet", Window(past=1, future=1))
    stream = StreamingDetector(detector)
    frames = random_frames(20, size=(32, 32))

    def held() -> int:
        states = [t for state in stream._memory.states.values() for t in state.values()]
        tensors = (*stream._ring._frames.tensors(), *states)
        return sum(t.untyped_storage().nbytes() for t in tensors)

    sizes = []
    for _ in range(50):
        stream.push(frames)
        sizes.append(held())
    assert stream._processed == 1000 - 1
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("build", DETECTORS.values(), ids=DETECTORS)
def test_a_window_wider_than_the_video_repeats_its_borders(build) -> None:
    detector = build(Window(past=4, future=3))
    frames = random_frames(2)
    results = [result.detections for result in streamed(detector, frames, 2)]
    rows = [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]]
    memory: Memory | None = None
    for row, result in zip(rows, results, strict=True):
        with torch.inference_mode():
            encoded = detector.encode(frames[row])
            memory = memory or detector.begin(1, encoded)
            windows = WindowBatch.of_clips(encoded, 8, reference=4)
            outputs, memory = detector.step(windows, memory)
            found = detector.decode(outputs, [((64, 64), (64, 64))])
        assert_same(found, [result])


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
    expected = [result.detections for result in streamed(detector, second, 3)]
    for results in (again, once_more):
        assert [result.frame_index for result in results] == [0, 1, 2]
        assert_same([result.detections for result in results], expected)


def test_results_come_when_the_lookahead_is_filled() -> None:
    detector = tiny_detector(fusion_of("mean"), Window(past=1, future=2, frame_stride=2))
    stream = StreamingDetector(detector)
    known = [[a.frame_index for a in stream.push(frame)] for frame in random_frames(6)]
    assert known == [[], [], [], [], [0], [1]]
    assert [result.frame_index for result in stream.flush()] == [2, 3, 4, 5]


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
        held.append((len(stream._ring._frames), len(stream._sizes)))
    assert set(held[10:]) == {(7, 2)}


def test_arrays_and_tensors_and_any_size_give_original_pixels() -> None:
    detector = tiny_detector(fusion_of("none"), Window())
    frame = random_frames(1, size=(50, 70))
    array = np.ascontiguousarray(frame[0].permute(1, 2, 0).numpy())
    stream = StreamingDetector(detector)
    as_read_by_opencv = array[..., ::-1].copy()
    kinds = (frame, frame[0], array, array[None], as_read_by_opencv[..., ::-1])
    results = [stream.push(frames)[0].detections for frames in kinds]
    for a, b in pairwise(results):
        assert_same([a], [b])
    boxes = results[0]["boxes"]
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 70
    assert boxes[:, 3].max() <= 50
    threshold = float(results[0]["scores"].median())
    stream = StreamingDetector(detector, score_threshold=threshold)
    (result,) = stream.push(frame)
    assert result.detections["scores"].min() >= threshold


def test_frames_of_another_size_are_refused() -> None:
    stream = StreamingDetector(tiny_detector(fusion_of("mean"), Window(past=1)))
    stream.push(random_frames(2))
    with pytest.raises(
        ConfigError, match=r"size: expected 64 x 64 .*found 64 x 96. Call reset\(\)"
    ):
        stream.push(random_frames(1, size=(64, 96)))
    stream.reset()
    assert len(stream.push(random_frames(1, size=(64, 96)))) == 1


def test_a_stream_leaves_the_mode_of_its_detector_alone() -> None:
    detector = tiny_detector(fusion_of("mean"), Window(past=1)).train()
    stream = StreamingDetector(detector)
    assert detector.training
    with pytest.raises(ConfigError, match=r"evaluation mode, found training mode: call eval\(\)"):
        stream.push(random_frames(1))
    detector.eval()
    assert len(stream.push(random_frames(1))) == 1


def test_an_empty_chunk_is_refused() -> None:
    stream = StreamingDetector(tiny_detector(fusion_of("mean"), Window(past=1)))
    with pytest.raises(ConfigError, match=r"at least one frame, found .*\[0, 3, 64, 64\]"):
        stream.push_resized(random_frames(0), (64, 64), (64, 64))


def test_all_detections_asked_for_are_given() -> None:
    detector = tiny_detector(fusion_of("none"), Window())
    detector.head.max_detections = 120  # of 256 cells and 3 classes
    (result,) = StreamingDetector(detector).push(random_frames(1, size=(160, 160)))
    assert 100 < len(result.detections["scores"]) <= 120


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((3, 8, 8), np.uint8),
        torch.zeros((8, 8, 3), dtype=torch.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((1, 0, 8, 3), np.uint8),
    ],
)
def test_frames_of_another_kind_are_refused(frames: np.ndarray | torch.Tensor) -> None:
    stream = StreamingDetector(tiny_detector(fusion_of("none"), Window()))
    with pytest.raises(ConfigError, match=r"Expected uint8 RGB frames.*found a"):
        stream.push(frames)


def test_what_is_no_array_is_refused() -> None:
    # In a process of its own, since the types of arguments are checked in this one.
    code = """
from vodet.errors import ConfigError
from vodet.inference.frame_arrays import frames_as_arrays
for frames in (None, [], "a.jpg"):
    try:
        frames_as_arrays(frames)
    except ConfigError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found = [line.rpartition("found ")[2] for line in result.stdout.splitlines()]
    assert found == ["a NoneType.", "a list.", "a str."], result.stderr
