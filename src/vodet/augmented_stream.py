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
from vodet.errors import ConfigError
from vodet.inference.frame_arrays import frames_as_arrays
from vodet.inference.postprocess import above
from vodet.inference.view_fusion import fuse_views
from vodet.streaming import StreamableDetector, StreamFactory, StreamingDetector
from vodet.structures import Detections, FrameDetections, Size


class AugmentedStream:
    """Runs a `StreamingDetector` on each view of a video and fuses the detections of each frame.

    A view is a version of the video: there is one view per scale and, with ``flip``, also a
    mirrored view per scale. Each view is a separate stream with its own memory, so detectors with a
    memory work, too. The run time is the sum of the run times of all views. `fuse_views` defines
    how detections are fused.

    Args:
        detector: The detector; any number of streams may share it.
        flip: Whether to add views that are mirrored horizontally.
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
        detector: StreamableDetector,
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
        """Process the next frame or frames; return detections of frames with a complete window.

        Arguments, result and errors are the same as for `StreamingDetector.push`.
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
        """Do the same as `push`, with the arguments of `StreamingDetector.push_resized`.

        Raises:
            ConfigError: If ``size`` differs from ``original_size``. Each view resizes the frames
                itself, so they must not be resized before.
        """
        if size != original_size:
            msg = (
                "Test-time augmentation needs frames at their original size, (height, width) = "
                f"{original_size}, found {size}. Load them with "
                "ClipDataModule(resize=OriginalSize())."
            )
            raise ConfigError(msg)
        return self.push(frames[..., : size[0], : size[1]])

    def flush(self) -> list[FrameDetections]:
        """End the video: return the detections of the remaining frames, then call `reset`."""
        return self._fused([stream.flush() for stream, _ in self._views])

    def _fused(self, results: Sequence[Sequence[FrameDetections]]) -> list[FrameDetections]:
        """Return the detections of each frame, fused from the results of all views.

        Args:
            results: What each view's stream returned, ``[views][frames]``.
        """
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


def stream_factory(flip: Any = False, scales: Any = (1.0,)) -> StreamFactory:
    """Return a function that builds a stream for a detector.

    The stream is an `AugmentedStream`, or a `StreamingDetector` if the settings add no view.

    Args:
        flip: Whether to add views that are mirrored horizontally.
        scales: Scales of the frames relative to the detector's evaluation size.

    Raises:
        ConfigError: If ``flip`` is not a bool, or ``scales`` is not a list of distinct positive
            numbers.
    """
    is_list = isinstance(scales, Sequence)
    if not isinstance(flip, bool) or not is_list or not all(map(_is_number, scales)):
        msg = (
            "test_time_augmentation: flip must be true or false, and scales a list of numbers such "
            f"as [1.0, 1.25]; found flip={flip}, scales={scales}."
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
    """Check the scales of test-time augmentation.

    Raises:
        ConfigError: If there are no scales, a scale is not positive and finite, or a scale occurs
            twice.
    """
    is_right = all(0 < scale < math.inf for scale in scales) and len({*scales}) == len(scales)
    if not scales or not is_right:
        msg = (
            "Test-time augmentation needs one or more scales, all positive, finite and distinct, "
            f"such as [1.0, 1.25]; found {list(scales)}."
        )
        raise ConfigError(msg)


def _mirrored(detections: Detections, width: int) -> Detections:
    return Detections(
        boxes=mirror_boxes(detections["boxes"], width),
        scores=detections["scores"],
        labels=detections["labels"],
    )
