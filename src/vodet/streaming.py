"""Runs a detector on the frames of a video as they arrive, and encodes each frame once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from vodet.encodings import EncodedFrames, Memory, WindowBatch
from vodet.errors import ConfigError
from vodet.inference.frame_arrays import frames_as_arrays
from vodet.inference.postprocess import above
from vodet.stages import FrameResize
from vodet.structures import Detections, FrameDetections, Size, Window


@runtime_checkable
class VideoStream(Protocol):
    """Processes the frames of one video in order; `StreamingDetector` is an example."""

    def push(self, frames: np.ndarray | Tensor) -> list[FrameDetections]:
        """Process the next uint8 RGB frames; return detections of frames with a complete window."""

    def push_resized(
        self, frames: Tensor, original_size: Size, size: Size
    ) -> list[FrameDetections]:
        """Do the same as `push`, for frames ``[n, 3, H, W]`` that are already resized."""

    def flush(self) -> list[FrameDetections]:
        """End the video: return the detections of the remaining frames, then call `reset`."""

    def reset(self) -> None:
        """Forget the current video; the next frame starts a new one."""


@runtime_checkable
class StreamableDetector(Protocol):
    """What a stream needs of a detector; `VideoDetector` documents the members."""

    training: bool
    window: Window
    resize: FrameResize

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    @property
    def remembers(self) -> bool:
        """Whether the frames of a video must be predicted in order."""

    def encode(self, frames: Tensor, sizes: Tensor | None = None) -> EncodedFrames:
        """Compute everything that depends on single frames."""

    def begin(self, videos: int, frames: EncodedFrames) -> Memory:
        """Return the initial memory."""

    def step(self, windows: WindowBatch, memory: Memory) -> tuple[dict[str, Tensor], Memory]:
        """Predict the objects of the reference frames of windows."""

    def decode(
        self, outputs: dict[str, Tensor], sizes: Sequence[tuple[Size, Size]]
    ) -> list[Detections]:
        """Turn raw outputs into detections."""


StreamFactory = Callable[[StreamableDetector], VideoStream]


class StreamingDetector:
    """Runs a detector on one video and holds its memory.

    The detections of a frame are returned as soon as the later frames of its window have arrived,
    which are `Window.lookahead` frames. They equal the detections of the same frame in a clip.
    Memory use does not grow with the length of the video.

    Args:
        detector: The detector, in evaluation mode; any number of streams may share it.
        score_threshold: Minimum score of a detection (inclusive).
        resize: Resizes the frames that `push` gets; by default the ``resize`` of the detector.

    Example:
        ::

            stream = StreamingDetector(vodet.load("runs/demo/best.ckpt"))
            for frame in frames:  # uint8 RGB [H, W, 3]
                for result in stream.push(frame):
                    print(result.frame_index, result.detections["boxes"])
            last_results = stream.flush()
    """

    def __init__(
        self,
        detector: StreamableDetector,
        *,
        score_threshold: float = 0.0,
        resize: FrameResize | None = None,
    ) -> None:
        self.detector = detector
        self.resize = resize or detector.resize
        self.score_threshold = score_threshold
        self.reset()

    def reset(self) -> None:
        """Forget the current video; the next frame starts a new one."""
        self._ring: _Ring | None = None
        self._memory: Memory | None = None
        self._arrived = 0
        self._processed = 0
        self._sizes: dict[int, tuple[Size, Size]] = {}  # sizes of frames not processed yet

    def push(self, frames: np.ndarray | Tensor) -> list[FrameDetections]:
        """Process the next frame or frames of the video.

        Args:
            frames: uint8 RGB of any size: an array ``[H, W, 3]`` or ``[n, H, W, 3]``, or a tensor
                ``[3, H, W]`` or ``[n, 3, H, W]``.

        Returns:
            The detections of all frames whose window is now complete and that were not returned
            before; often of earlier frames than ``frames``.

        Raises:
            ConfigError: If ``frames`` has another shape or type or is empty, if, after
                resizing, the frames differ in size from earlier frames of the video, or if the
                detector is in training mode.
        """
        arrays = frames_as_arrays(frames)
        resized = [torch.from_numpy(self.resize(frame)).permute(2, 0, 1) for frame in arrays]
        original: Size = arrays.shape[1:3]
        return self.push_resized(torch.stack(resized), original, self.resize.target_size(original))

    @torch.inference_mode()
    def push_resized(
        self, frames: Tensor, original_size: Size, size: Size
    ) -> list[FrameDetections]:
        """Do the same as `push`, for frames that are already resized to the evaluation size.

        Args:
            frames: ``[n, 3, H, W]`` uint8 RGB, at least one.
            original_size: ``(height, width)`` of the original frames, to which the boxes refer.
            size: ``(height, width)`` of the frames without their padding at the right and bottom.
        """
        self._check(frames)
        sizes = torch.tensor(size, device=self.detector.device).expand(len(frames), 2)
        frames = frames.to(self.detector.device, non_blocking=True)
        encoded = self.detector.encode(frames, sizes)
        if self._ring is None or self._memory is None:
            self._ring = _Ring(encoded, frames.shape[-2:], self.detector.window)
            self._memory = self.detector.begin(1, encoded)
        first_needed = self._processed - self.detector.window.lookback
        self._ring.put(encoded, self._arrived, first_needed)
        for number in range(self._arrived, self._arrived + len(frames)):
            self._sizes[number] = (size, original_size)
        self._arrived += len(frames)
        return self._process(self._arrived - self.detector.window.lookahead)

    @torch.inference_mode()
    def flush(self) -> list[FrameDetections]:
        """End the video: return the detections of the remaining frames, then call `reset`."""
        found = self._process(self._arrived)
        self.reset()
        return found

    def _check(self, frames: Tensor) -> None:
        check_evaluating(self.detector)
        if not len(frames):
            msg = f"Expected at least one frame, found a tensor of shape {list(frames.shape)}."
            raise ConfigError(msg)
        if self._ring is not None and frames.shape[-2:] != self._ring.frame_size:
            (height, width), (new_height, new_width) = self._ring.frame_size, frames.shape[-2:]
            msg = (
                f"The frames of a video must have the same size: expected {height} x {width} after "
                f"resizing, like the first frames, found {new_height} x {new_width}. Call reset() "
                "before the first frame of another video."
            )
            raise ConfigError(msg)

    def _process(self, end: int) -> list[FrameDetections]:
        """Process all frames with an index below ``end`` that are not processed yet.

        Returns:
            Their detections.
        """
        ready = range(self._processed, end)
        # With a memory, each step needs the memory from the previous frame. Otherwise one step
        # processes all frames.
        at_once = 1 if self.detector.remembers else max(len(ready), 1)
        found = []
        for start in range(0, len(ready), at_once):
            found += self._step(ready[start : start + at_once])
        return found

    def _step(self, numbers: range) -> list[FrameDetections]:
        ring, memory = cast("_Ring", self._ring), cast("Memory", self._memory)
        windows = ring.windows(numbers, self._arrived)
        outputs, self._memory = self.detector.step(windows, memory)
        sizes = [self._sizes.pop(number) for number in numbers]
        self._processed = numbers.stop
        return [
            FrameDetections(number, above(found, self.score_threshold))
            for number, found in zip(numbers, self.detector.decode(outputs, sizes), strict=True)
        ]


def check_evaluating(detector: StreamableDetector) -> None:
    """Check that a detector is in evaluation mode.

    Raises:
        ConfigError: If it is in training mode.
    """
    if detector.training:
        msg = "The detector must be in evaluation mode, found training mode: call eval() on it."
        raise ConfigError(msg)


class _Ring:
    """Ring buffer of the last encoded frames: frame ``i`` of the video is in row ``i % length``.

    Initially it is long enough for the frames of a window and as many new frames as ``like`` has.

    Args:
        like: The first encoded frames of the video, which define shapes, types and device.
        frame_size: Height and width of the frames.
        window: The window around a reference frame.
    """

    def __init__(self, like: EncodedFrames, frame_size: Sequence[int], window: Window) -> None:
        self.frame_size = tuple(frame_size)
        self._window = window
        self._frames = _empty(like, window.lookback + window.lookahead + len(like))

    def put(self, encoded: EncodedFrames, number: int, first_needed: int) -> None:
        """Store new frames; enlarge the buffer if it cannot hold them and all needed frames.

        Args:
            encoded: The new frames.
            number: Index in the video of the first new frame.
            first_needed: Index in the video of the earliest frame that later windows contain.
        """
        needed = range(max(first_needed, 0), number)
        if len(needed) + len(encoded) > len(self._frames):
            before = self._frames
            self._frames = _empty(encoded, len(needed) + len(encoded))
            rows = [i % len(before) for i in needed]
            self._write(needed, before.map(lambda tensor: tensor[rows]))
        self._write(range(number, number + len(encoded)), encoded)

    def _write(self, numbers: range, frames: EncodedFrames) -> None:
        places = torch.tensor([number % len(self._frames) for number in numbers], dtype=torch.int64)
        places = places.to(self._frames.sizes.device)
        for kept, new in zip(self._frames.tensors(), frames.tensors(), strict=True):
            kept.index_copy_(0, places, new)

    def windows(self, numbers: range, arrived: int) -> WindowBatch:
        """Return the windows of the given reference frames.

        Args:
            numbers: Indices of the reference frames in the video.
            arrived: Number of frames received so far, including the ones that were overwritten.
        """
        index = torch.tensor([self._window.positions(number, arrived) for number in numbers])
        places = (index % len(self._frames)).to(self._frames.sizes.device)
        return WindowBatch.of(self._frames, places, self._window.reference)


def _empty(like: EncodedFrames, length: int) -> EncodedFrames:
    return like.map(lambda new: torch.empty_like(new[:1].expand(length, *new.shape[1:])))
