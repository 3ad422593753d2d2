"""Evaluation is streaming over a data set."""

from __future__ import annotations

from itertools import groupby

from vodet.detector import VideoDetector
from vodet.metrics.coco import CocoAveragePrecision
from vodet.streaming import StreamingDetector
from vodet.structures import FrameDetections, FrameInfo, VideoChunk


class Evaluation:
    """Streams whole videos through a detector into a metric.

    Args:
        detector: The detector.
        metric: Gets the detections of annotated frames, in original pixels.
    """

    def __init__(self, detector: VideoDetector, metric: CocoAveragePrecision) -> None:
        self.metric = metric
        self._stream = StreamingDetector(detector)
        self._infos: list[FrameInfo] = []

    def update(self, chunk: VideoChunk) -> None:
        """Take the next frames; chunks of a video come in order, one video after the other."""
        if chunk.is_first:
            self._stream.reset()
            self._infos = []
        position = 0
        for (original_size, size), run in groupby(
            chunk.infos, key=lambda info: (info.original_size, info.size)
        ):
            infos = list(run)
            frames = chunk.frames[position : position + len(infos)]
            position += len(infos)
            self._infos += infos
            self._collect(self._stream.push_resized(frames, original_size, size))
        if chunk.is_last:
            self._collect(self._stream.flush())

    def _collect(self, answers: list[FrameDetections]) -> None:
        for answer in answers:
            info = self._infos[answer.frame_index]
            if info.is_annotated:
                self.metric.update([info.image_id], [answer.detections])
