"""Running a detector on a video as it arrives, each frame encoded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from vodet.detector import VideoDetector
from vodet.encodings import Encodings, TemporalMemory, Windows
from vodet.errors import ConfigError
from vodet.inference.postprocess import to_original
from vodet.stages import FrameResize
from vodet.structures import FrameDetections, Size


@runtime_checkable
class VideoStream(Protocol):
    """What answers the frames of one video after the other, in order: a `StreamingDetector`."""

    def push(self, frames: np.ndarray | Tensor) -> list[FrameDetections]:
        """Take the next frames, uint8 RGB; return the answers that have become known."""

    def push_resized(
        self, frames: Tensor, original_size: Size, size: Size
    ) -> list[FrameDetections]:
        """Like `push`, for frames as an evaluation loads them."""

    def flush(self) -> list[FrameDetections]:
        """Return the answers still outstanding: the video has ended. Then `reset`."""

    def reset(self) -> None:
        """Forget the video; the next frame is the first of another one."""


StreamFactory = Callable[[VideoDetector], VideoStream]


class StreamingDetector:
    """The holder of one video's state: push frames, get the answers that have become known.

    A frame is answered as soon as the later frames of its window have been seen
    (`Window.lookahead`), and the same as it would be as part of a clip. What is held does not
    grow with the video.

    Args:
        detector: The detector; it may serve any number of streams.
        score_threshold: Detections with lower scores are left out.
        resize: How `push` brings frames to size; as the detector says by default.

    Example:
        ::

            stream = StreamingDetector(vodet.load("runs/demo/best.ckpt"))
            for frame in frames:  # uint8 RGB [H, W, 3]
                for answer in stream.push(frame):
                    print(answer.frame_index, answer.detections["boxes"])
            last_answers = stream.flush()
    """

    def __init__(
        self,
        detector: VideoDetector,
        *,
        score_threshold: float = 0.0,
        resize: FrameResize | None = None,
    ) -> None:
        self.detector = detector.eval()
        self.resize = resize or detector.resize
        self.score_threshold = score_threshold
        self.reset()

    def reset(self) -> None:
        """Forget the video; the next frame is the first of another one."""
        self._memory = TemporalMemory()
        self._arrived = 0
        self._ring: Encodings | None = None
        self._sizes: dict[int, tuple[Size, Size]] = {}

    def push(self, frames: np.ndarray | Tensor) -> list[FrameDetections]:
        """Take the next frame or frames and return the answers that have become known.

        Args:
            frames: uint8 RGB of any size: an array ``[H, W, 3]`` or ``[n, H, W, 3]``, or a tensor
                ``[3, H, W]`` or ``[n, 3, H, W]``.

        Raises:
            ConfigError: If ``frames`` is none of these, or of another size than those before.
        """
        arrays = frames_as_arrays(frames)
        resized = [torch.from_numpy(self.resize(frame)).permute(2, 0, 1) for frame in arrays]
        original: Size = arrays.shape[1:3]
        return self.push_resized(torch.stack(resized), original, self.resize.target_size(original))

    @torch.inference_mode()
    def push_resized(
        self, frames: Tensor, original_size: Size, size: Size
    ) -> list[FrameDetections]:
        """Like `push`, for frames that are at the size of evaluation.

        Args:
            frames: ``[n, 3, H, W]`` uint8 RGB.
            original_size: Size that the detections refer to.
            size: Size of the picture in the upper left corner of ``frames``.
        """
        sizes = torch.tensor(size, device=self.detector.device).expand(len(frames), 2)
        frames = frames.to(self.detector.device, non_blocking=True)
        self._keep(self.detector.encode(frames, sizes))
        for _ in range(len(frames)):
            self._sizes[self._arrived] = (size, original_size)
            self._arrived += 1
        return self._answer(self._arrived - self.detector.window.lookahead)

    @torch.inference_mode()
    def flush(self) -> list[FrameDetections]:
        """Answer the frames that still wait for later ones: the video has ended. Then `reset`."""
        answers = self._answer(self._arrived)
        self.reset()
        return answers

    def _answer(self, end: int) -> list[FrameDetections]:
        """Answer all frames before ``end`` that have not been answered."""
        ready = range(self._memory.answered, end)
        if not ready:
            return []
        # What an answer leaves in the memory, the next one needs; without that, all go at once.
        at_once = 1 if self.detector.head.remembers else len(ready)
        answers = []
        for start in range(0, len(ready), at_once):
            answers += self._step(ready[start : start + at_once])
        return answers

    def _step(self, indices: range) -> list[FrameDetections]:
        memories = [replace(self._memory, answered=index) for index in indices]
        predictions, memories = self.detector.step(self._windows(indices), memories)
        self._memory = memories[-1]
        detections = self.detector.head.decode(predictions)
        return [
            FrameDetections(
                index, to_original(found, *self._sizes.pop(index), self.score_threshold)
            )
            for index, found in zip(indices, detections, strict=True)
        ]

    def _windows(self, indices: range) -> Windows:
        """Return the windows around frames, repeating the borders of the video."""
        window, ring = self.detector.window, cast("Encodings", self._ring)
        last = self._arrived - 1
        frames = [
            [min(max(index + offset, 0), last) % len(ring) for offset in window.offsets]
            for index in indices
        ]
        return Windows(ring, torch.tensor(frames, device=self.detector.device), window.reference)

    def _keep(self, encodings: Encodings) -> None:
        """Put new frames into the ring: frame ``i`` has the place ``i`` modulo its length.

        The ring is as long as what can still be asked for: the window and the new frames.
        """
        window = self.detector.window
        held = range(max(0, self._memory.answered - window.lookback), self._arrived)
        needed = len(held) + len(encodings)
        if self._ring is None or needed > len(self._ring):
            length = max(needed, window.lookback + window.lookahead + len(encodings))
            self._ring = _ring_of(encodings, length, self._ring, held)
        places = [(self._arrived + number) % len(self._ring) for number in range(len(encodings))]
        for kept, new in zip(self._ring.tensors(), encodings.tensors(), strict=True):
            if kept.shape[1:] != new.shape[1:]:
                msg = (
                    "The frames of a video must have one size: maps of the first frames are "
                    f"{list(kept.shape[1:])}, found {list(new.shape[1:])}. Call reset() before "
                    "another video."
                )
                raise ConfigError(msg)
            kept[places] = new


def _ring_of(like: Encodings, length: int, old: Encodings | None, held: range) -> Encodings:
    """Return a ring of ``length`` frames with those of another that are still held."""
    ring = like.map(lambda new: torch.empty_like(new[:1].expand(length, *new.shape[1:])))
    if old is not None:
        for kept, before in zip(ring.tensors(), old.tensors(), strict=True):
            kept[[i % length for i in held]] = before[[i % len(old) for i in held]]
    return ring


def frames_as_arrays(frames: np.ndarray | Tensor) -> np.ndarray:
    """Return frames as ``[n, H, W, 3]``.

    Raises:
        ConfigError: If they are not as `StreamingDetector.push` expects them.
    """
    channels = -3 if isinstance(frames, Tensor) else -1
    if frames.ndim not in (3, 4) or frames.shape[channels] != 3 or "uint8" not in str(frames.dtype):
        msg = (
            "Expected uint8 RGB frames, an array [H, W, 3] or [n, H, W, 3] or a tensor [3, H, W] "
            f"or [n, 3, H, W]; found a {type(frames).__name__} {tuple(frames.shape)} of "
            f"{frames.dtype}."
        )
        raise ConfigError(msg)
    if isinstance(frames, Tensor):
        frames = frames.movedim(-3, -1).cpu().numpy()
    frames = np.ascontiguousarray(frames)  # torch refuses views such as bgr[..., ::-1]
    return frames if frames.ndim == 4 else frames[None]
