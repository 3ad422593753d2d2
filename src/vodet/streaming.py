"""Running a detector on a video as it arrives, each frame encoded once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vodet.detector import VideoDetector
from vodet.errors import ConfigError
from vodet.inference.postprocess import to_original
from vodet.structures import FeatureMaps, FrameDetections, Size, TemporalMemory


class StreamingDetector:
    """The holder of one video's state: push frames, get the answers that have become known.

    A frame is answered as soon as the later frames of its window have been seen
    (`Window.lookahead`), and the same as it would be as part of a clip. What is held does not
    grow with the video.

    Args:
        detector: The detector; it may serve any number of streams.
        score_threshold: Detections with lower scores are left out.

    Example:
        ::

            stream = StreamingDetector(vodet.load("runs/demo/best.ckpt"))
            for frame in frames:  # uint8 RGB [H, W, 3]
                for answer in stream.push(frame):
                    print(answer.frame_index, answer.detections["boxes"])
            last_answers = stream.flush()
    """

    def __init__(self, detector: VideoDetector, *, score_threshold: float = 0.0) -> None:
        self.detector = detector.eval()
        self.score_threshold = score_threshold
        self.reset()

    def reset(self) -> None:
        """Forget the video; the next frame is the first of another one."""
        self._memory = TemporalMemory()
        self._arrived = 0
        self._encodings: dict[int, FeatureMaps] = {}
        self._sizes: dict[int, tuple[Size, Size]] = {}

    def push(self, frames: np.ndarray | Tensor) -> list[FrameDetections]:
        """Take the next frame or frames and return the answers that have become known.

        Args:
            frames: uint8 RGB of any size: an array ``[H, W, 3]`` or ``[n, H, W, 3]``, or a tensor
                ``[3, H, W]`` or ``[n, 3, H, W]``.

        Raises:
            ConfigError: If ``frames`` is none of these.
        """
        arrays = _as_arrays(frames)
        resize = self.detector.resize
        resized = [torch.from_numpy(resize(frame)).permute(2, 0, 1) for frame in arrays]
        original: Size = arrays.shape[1:3]
        return self.push_resized(torch.stack(resized), original, resize.target_size(original))

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
        encodings = self.detector.encode(frames.to(self.detector.device, non_blocking=True))
        for position in range(len(frames)):
            self._encodings[self._arrived] = encodings[position]
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
        memories = [TemporalMemory(answered=index) for index in ready]
        predictions, memories = self.detector.step(self._windows(ready), memories)
        self._memory = memories[-1]
        detections = self.detector.head.decode(predictions)
        answers = [
            FrameDetections(
                index, to_original(found, *self._sizes.pop(index), self.score_threshold)
            )
            for index, found in zip(ready, detections, strict=True)
        ]
        self._forget(self._memory.answered - self.detector.window.lookback)
        return answers

    def _windows(self, ready: Sequence[int]) -> FeatureMaps:
        """Stack the encodings around each frame, ``[n, T, C, h, w]``, repeating the borders."""
        offsets = self.detector.window.offsets
        last = self._arrived - 1
        frames = [min(max(index + offset, 0), last) for index in ready for offset in offsets]
        levels = zip(*(self._encodings[frame].levels for frame in frames), strict=True)
        shape = (len(ready), len(offsets))
        return FeatureMaps(
            tuple(torch.stack(level).view(*shape, *level[0].shape) for level in levels)
        )

    def _forget(self, before: int) -> None:
        for index in [index for index in self._encodings if index < before]:
            del self._encodings[index]


def _as_arrays(frames: np.ndarray | Tensor) -> np.ndarray:
    """Return frames as ``[n, H, W, 3]``."""
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
    return frames if frames.ndim == 4 else frames[None]
