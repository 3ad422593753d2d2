"""Test-time augmentation: a video seen mirrored and in several sizes, by one detector."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from vodet.boxes import mirror_boxes
from vodet.detector import VideoDetector
from vodet.errors import ConfigError
from vodet.inference.postprocess import above
from vodet.inference.view_fusion import fuse_views
from vodet.streaming import StreamFactory, StreamingDetector, frames_as_arrays
from vodet.structures import Detections, FrameDetections, Size


class AugmentedStream:
    """A `StreamingDetector` for each view of the video; the detections of a frame are fused.

    The views are all sizes, each as it is and, with ``flip``, mirrored left to right. Each has a
    state of its own, as if it were the only one, so any detector will do. An answer takes as much
    time as those of all views together. What becomes of their detections: `fuse_views`.

    Args:
        detector: The detector; it may serve any number of streams.
        flip: Whether there are mirrored views.
        scales: Factors by which frames are larger than the detector's own size of evaluation.
        score_threshold: Detections with lower scores, after the fusion, are left out.

    Raises:
        ConfigError: If there is no scale, one is not positive, or one is there twice.

    Example:
        ::

            stream = AugmentedStream(vodet.load("best.ckpt"), flip=True, scales=(0.8, 1.0, 1.25))
            answers = stream.push(frames) + stream.flush()
    """

    def __init__(
        self,
        detector: VideoDetector,
        *,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        score_threshold: float = 0.0,
    ) -> None:
        check_scales(scales)
        self.score_threshold = score_threshold
        self._views = [
            (StreamingDetector(detector, resize=detector.resize.scaled(scale)), is_mirrored)
            for scale in scales
            for is_mirrored in ((False, True) if flip else (False,))
        ]
        self._widths: deque[int] = deque()  # of the frames without an answer

    def reset(self) -> None:
        """Forget the video; the next frame is the first of another one."""
        self._widths.clear()
        for stream, _ in self._views:
            stream.reset()

    def push(self, frames: np.ndarray | Tensor) -> list[FrameDetections]:
        """Take the next frame or frames and return the answers that have become known.

        Args and errors as of `StreamingDetector.push`.
        """
        arrays = frames_as_arrays(frames)
        # Mirrored before they are resized: the padding of a letterbox stays on the right.
        answers = [
            stream.push(arrays[:, :, ::-1] if is_mirrored else arrays)
            for stream, is_mirrored in self._views
        ]
        self._widths.extend([arrays.shape[2]] * len(arrays))
        return self._fused(answers)

    def push_resized(
        self, frames: Tensor, original_size: Size, size: Size
    ) -> list[FrameDetections]:
        """Like `push`, with the arguments of `StreamingDetector.push_resized`.

        Raises:
            ConfigError: If the frames are not of original size: each view resizes them itself.
        """
        if size != original_size:
            msg = (
                f"Test-time augmentation needs frames of original size, {original_size}, found "
                f"{size}. Load them with ClipDataModule(resize=OriginalSize())."
            )
            raise ConfigError(msg)
        return self.push(frames[..., : size[0], : size[1]])

    def flush(self) -> list[FrameDetections]:
        """Answer the frames that still wait for later ones: the video has ended. Then `reset`."""
        return self._fused([stream.flush() for stream, _ in self._views])

    def _fused(self, answers: Sequence[Sequence[FrameDetections]]) -> list[FrameDetections]:
        """Fuse the answers of all views, ``[views][frames]``."""
        fused = []
        for of_views in zip(*answers, strict=True):
            width = self._widths.popleft()
            found = fuse_views(
                [
                    _mirrored(answer.detections, width) if is_mirrored else answer.detections
                    for answer, (_, is_mirrored) in zip(of_views, self._views, strict=True)
                ]
            )
            fused.append(replace(of_views[0], detections=above(found, self.score_threshold)))
        return fused


def stream_factory(flip: Any, scales: Any) -> StreamFactory:
    """Return `StreamingDetector`, or what builds an `AugmentedStream` if there is another view.

    Args:
        flip: Whether there are mirrored views.
        scales: Factors by which frames are larger than the detector's own size of evaluation.

    Raises:
        ConfigError: If these are not a bool and a list of different positive numbers.
    """
    is_list = isinstance(scales, Sequence)
    if not isinstance(flip, bool) or not is_list or not all(map(_is_number, scales)):
        msg = (
            "test_time_augmentation: expected flip=true or false and scales such as [1.0, 1.25], "
            f"found flip={flip}, scales={scales}."
        )
        raise ConfigError(msg)
    factors = tuple(float(scale) for scale in scales)
    check_scales(factors)
    if not flip and factors == (1.0,):
        return StreamingDetector
    return partial(AugmentedStream, flip=flip, scales=factors)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_scales(scales: Sequence[float]) -> None:
    """Make sure that there are scales, all different and positive.

    Raises:
        ConfigError: If not.
    """
    is_right = all(0 < scale < math.inf for scale in scales) and len({*scales}) == len(scales)
    if not scales or not is_right:
        msg = (
            "Test-time augmentation needs scales that are positive and different, such as "
            f"[1.0, 1.25], found {list(scales)}."
        )
        raise ConfigError(msg)


def _mirrored(detections: Detections, width: int) -> Detections:
    return Detections(
        boxes=mirror_boxes(detections["boxes"], width),
        scores=detections["scores"],
        labels=detections["labels"],
    )
