"""Prediction in Python: runs a detector on videos and images, and yields the results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image
from torch import Tensor

from vodet.augmented_stream import stream_factory
from vodet.errors import ConfigError, FrameError
from vodet.inference.frame_arrays import describe, frames_as_arrays
from vodet.inference.predicted_frame import PredictedFrame
from vodet.inference.reading import FrameSource, open_frames, open_images, raise_faults
from vodet.inference.selection import SCORE_THRESHOLD, Selection, Threshold
from vodet.inference.sources import find_videos, is_image
from vodet.inference.streams import check_numbers, linked_frames
from vodet.inference.tubelet_linking import check_linking, reads_twice
from vodet.streaming import StreamableDetector, StreamFactory, check_evaluating

Open = Callable[[], FrameSource]


@runtime_checkable
class PredictingDetector(StreamableDetector, Protocol):
    """What a prediction needs of a detector."""

    class_names: tuple[str, ...]


class Predicts:
    """Adds the method `predict` to a detector."""

    def predict(
        self: PredictingDetector,
        source: Any,
        *,
        score_threshold: Threshold = SCORE_THRESHOLD,
        classes: str | Iterable[str] | None = None,
        tubelet_linking: str = "none",
        test_time_augmentation: Mapping[str, Any] | None = None,
        chunk_size: int = 1,
        fps: float | int | Fraction = 25,
    ) -> Any:
        """Detect the objects in videos or images.

        What is returned depends on the source:

        - **Videos**: an iterator of `PredictedFrame`, which reads the frames when they are needed,
          so memory use does not grow with the length of the video. The source is the path of a
          video file, of a folder of videos or of images (all images in one folder are the frames of
          a video), or a glob such as ``"frames/*.jpg"``; or it is an iterable of uint8 RGB frames,
          which may be endless, such as a camera.
        - **An image**: one `PredictedFrame`. The source is the path of an image file, a PIL image,
          or a uint8 RGB array ``[H, W, 3]`` or tensor ``[3, H, W]``. It is a video of one frame.
        - **A list of images**: a list of `PredictedFrame`. Each image is a video of one frame; use
          ``iter(images)`` if they are the frames of one video.

        Args:
            source: The videos or images.
            score_threshold: Minimum score of a detection: a number, or numbers by class name, such
                as ``{"car": 0.5}``, with 0.3 for the other classes.
            classes: Names of the classes to return; all by default.
            tubelet_linking: Links the detections of neighbouring frames and rescores them, before
                the threshold is applied. ``rescore_online`` works frame by frame. ``seq_nms`` and
                ``rescore`` need the whole video first, so they read it twice: the first frame comes
                when the whole video was read, and iterators are errors.
            test_time_augmentation: Fuses the detections of several views of each frame:
                ``{"flip": True}`` adds mirrored views, ``{"scales": [1.0, 1.25]}`` scales.
            chunk_size: Number of frames encoded at once. A larger number is faster on a GPU, but
                the results come later.
            fps: Frame rate of images and of frames without time stamps, for `PredictedFrame.time`.

        Raises:
            ConfigError: If an argument is invalid, or the detector is in training mode.
            FrameError: If an image or a video cannot be read. For a video that is damaged or cut
                short, the iterator yields all frames that can be decoded before it raises the
                error. For several videos, it raises the error after the last video.

        Example:
            ::

                detector = vodet.load("best.ckpt")
                for frame in detector.predict("street.mp4", classes=["car"]):
                    print(frame.index, frame.time, frame.detections["boxes"])
        """
        check_evaluating(self)
        check_linking(tubelet_linking)
        check_numbers(chunk_size, fps)
        prediction = _Prediction(
            self,
            Selection(self.class_names, score_threshold, classes),
            _stream_of(test_time_augmentation),
            tubelet_linking,
            chunk_size,
            float(fps),
        )
        if isinstance(source, list | tuple):
            stills = [_open_still(item, str(number)) for number, item in enumerate(source)]
            return [next(prediction.frames(still)) for still in stills]
        if _is_still(source):
            return next(prediction.frames(_open_still(source, "image")))
        if isinstance(source, Iterator) and reads_twice(tubelet_linking):
            msg = (
                f"tubelet_linking={tubelet_linking} reads a video twice, but the frames of an "
                f"iterator can be read only once; found {describe(source)}. Use rescore_online."
            )
            raise ConfigError(msg)
        return prediction.videos(_videos(source))


@dataclass(frozen=True)
class _Prediction:
    detector: PredictingDetector
    select: Selection
    stream: StreamFactory
    tubelet_linking: str
    chunk_size: int
    fps: float

    def videos(self, videos: Sequence[Open]) -> Iterator[PredictedFrame]:
        """Yield the frames of all videos, then raise an error if one could not be read."""
        faults = []
        for open_video in videos:
            try:
                source = open_video()
                yield from self.frames(source)
                faults.append("\n".join(source.faults))
            except FrameError as error:
                if len(videos) == 1:
                    raise
                faults.append(str(error))
        raise_faults(faults)

    def frames(self, source: FrameSource) -> Iterator[PredictedFrame]:
        """Yield the frames of a video."""
        rate = float(source.fps or self.fps)
        linked = linked_frames(
            self.stream(self.detector),
            source,
            chunk_size=self.chunk_size,
            tubelet_linking=self.tubelet_linking,
        )
        for index, ((name, pixels, time), detections) in enumerate(linked):
            yield PredictedFrame(
                image=pixels,
                detections=self.select(detections),
                index=index,
                time=index / rate if time is None else float(time),
                video=source.name,
                name=name,
                class_names=self.select.class_names,
            )


def _stream_of(test_time_augmentation: Mapping[str, Any] | None) -> StreamFactory:
    views = dict(test_time_augmentation or {})
    if unknown := sorted(views.keys() - {"flip", "scales"}):
        msg = f"test_time_augmentation has the settings flip and scales, found {unknown[0]!r}."
        raise ConfigError(msg)
    return stream_factory(**views)


def _is_path(source: object) -> bool:
    return isinstance(source, str | os.PathLike)


def _is_still(source: Any) -> bool:
    if isinstance(source, np.ndarray | Tensor):
        return source.ndim != 4
    return isinstance(source, Image.Image) or (_is_path(source) and is_image(source))


def _open_still(source: Any, name: str) -> FrameSource:
    """Open an image as a video of one frame.

    Args:
        source: A path, an array, a tensor or a PIL image.
        name: Name of the video, if the source is not a path.
    """
    if _is_path(source):
        return open_images(Path(source).stem, [Path(source)])
    frames = frames_as_arrays(source)
    if len(frames) > 1:
        msg = f"Expected one image, found {describe(source)}, which has {len(frames)} frames."
        raise ConfigError(msg)
    return open_frames(name, frames)


def _videos(source: Any) -> list[Open]:
    """Return functions that open the videos of a source; a single video file is opened at once."""
    if _is_path(source):
        found = [video.open for video in find_videos(source)]
        if len(found) > 1:
            return found
        opened = found[0]()
    elif isinstance(source, np.ndarray | Tensor):
        opened = open_frames("frames", frames_as_arrays(source))
    elif isinstance(source, Iterable):
        opened = open_frames("frames", source)
    else:
        msg = (
            "Expected the path of a video, a folder or an image, an image (uint8 RGB array, tensor "
            "or PIL image), a list of images, or an iterable of frames, such as a camera's; "
            f"found {describe(source)}."
        )
        raise ConfigError(msg)
    return [lambda: opened]
