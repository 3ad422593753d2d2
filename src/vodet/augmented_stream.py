"""Test-time augmentation: runs a detector on mirrored and rescaled views of a video."""

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
    """Runs a `StreamingDetector` on each view of a video and fuses the detections of each frame.

    There is one view per scale and, with ``flip``, a mirrored view per scale. Each view has its own
    memory, so any detector can be used. Run time is the sum over all views. `fuse_views` defines
    how detections are fused.

    Args:
        detector: The detector; it may serve any number of streams.
        flip: Whether to add mirrored views.
        scales: Scales of the frames relative to the detector's evaluation size.
        score_threshold: Minimum score of a detection after fusion (inclusive).

    Raises:
        ConfigError: If there are no scales, a scale is not positive and finite, or a scale occurs
            twice.

    Example:
        ::

            stream = AugmentedStream(vodet.load("best.ckpt"), flip=True, scales=(0.8, 1.0, 1.25))
            results = stream.push(frames) + stream.flush()
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
        self._widths: deque[int] = deque()  # widths of the frames that are not processed yet

    def reset(self) -> None:
        """Forget the current video; the next frame starts a new one."""
        self._widths.clear()
        for stream, _ in self._views:
            stream.reset()

    def push(self, frames: np.ndarray | Tensor) -> list[FrameDetections]:
        """Take the next frame or frames and return the detections that are now complete.

        Takes the same arguments and raises the same errors as `StreamingDetector.push`.
        """
        arrays = frames_as_arrays(frames)
        # Frames are mirrored before resizing, so that letterbox padding stays on the right.
        results = [
            stream.push(arrays[:, :, ::-1] if is_mirrored else arrays)
            for stream, is_mirrored in self._views
        ]
        self._widths.extend([arrays.shape[2]] * len(arrays))
        return self._fused(results)

    def push_resized(
        self, frames: Tensor, original_size: Size, size: Size
    ) -> list[FrameDetections]:
        """Like `push`, with the arguments of `StreamingDetector.push_resized`.

        Raises:
            ConfigError: If the frames do not have their original size: each view resizes them.
        """
        if size != original_size:
            msg = (
                f"Test-time augmentation needs frames at their original size, {original_size}, "
                f"found {size}. Load them with ClipDataModule(resize=OriginalSize())."
            )
            raise ConfigError(msg)
        return self.push(frames[..., : size[0], : size[1]])

    def flush(self) -> list[FrameDetections]:
        """End the video: process the remaining frames, return their detections, then `reset`."""
        return self._fused([stream.flush() for stream, _ in self._views])

    def _fused(self, results: Sequence[Sequence[FrameDetections]]) -> list[FrameDetections]:
        """Fuse the detections of all views, ``[views][frames]``."""
        fused = []
        for of_views in zip(*results, strict=True):
            width = self._widths.popleft()
            found = fuse_views(
                [
                    _mirrored(result.detections, width) if is_mirrored else result.detections
                    for result, (_, is_mirrored) in zip(of_views, self._views, strict=True)
                ]
            )
            fused.append(replace(of_views[0], detections=above(found, self.score_threshold)))
        return fused


def stream_factory(flip: Any, scales: Any) -> StreamFactory:
    """Return a factory of `AugmentedStream`, or `StreamingDetector` if no views are added.

    Args:
        flip: Whether to add mirrored views.
        scales: Scales of the frames relative to the detector's evaluation size.

    Raises:
        ConfigError: If ``flip`` is not a bool, or ``scales`` is not a list of distinct positive
            numbers.
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
    """Check that there is at least one scale and that all scales are distinct and positive.

    Raises:
        ConfigError: If the check fails.
    """
    is_right = all(0 < scale < math.inf for scale in scales) and len({*scales}) == len(scales)
    if not scales or not is_right:
        msg = (
            "Test-time augmentation needs one or more scales, all positive and distinct, such as "
            f"[1.0, 1.25], found {list(scales)}."
        )
        raise ConfigError(msg)


def _mirrored(detections: Detections, width: int) -> Detections:
    return Detections(
        boxes=mirror_boxes(detections["boxes"], width),
        scores=detections["scores"],
        labels=detections["labels"],
    )
