"""Evaluation is streaming over a data set; what is found may be linked before it is measured."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import numpy as np

from vodet.inference.tubelet_linking import LINKINGS
from vodet.keys import positions_in
from vodet.metrics.predictions import Predictions
from vodet.metrics.video_metric import VideoMetric
from vodet.streaming import VideoStream
from vodet.structures import FrameDetections, FrameInfo, GroundTruth, VideoChunk


class Evaluation:
    """Streams whole videos into a metric.

    Args:
        stream: Detects.
        metric: Gets the detections of annotated frames, in original pixels.
    """

    def __init__(self, stream: VideoStream, metric: VideoMetric) -> None:
        self.metric = metric
        self._stream = stream
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


def link_tubelets(ground_truth: GroundTruth, predictions: Predictions, linking: str) -> Predictions:
    """Link the detections of whole videos.

    Frames are neighbours if no annotated frame of the video is between them.

    Args:
        ground_truth: Says which frames make a video, in which order; no more of it is used.
        predictions: Of annotated frames.
        linking: A name in `LINKINGS`.

    Returns:
        What is kept, by image id, best first, with new scores.
    """
    order = np.lexsort((ground_truth.frame_numbers, ground_truth.videos))
    apart = np.diff(ground_truth.videos[order], prepend=ground_truth.videos[order][:1]) != 0
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order)) + np.cumsum(apart)  # one is left out between videos
    frames = numbers[positions_in(ground_truth.image_ids, predictions.image_ids)]
    rows, scores = LINKINGS[linking](
        frames, predictions.boxes, predictions.scores, predictions.labels
    )
    kept = replace(predictions[rows], scores=scores)
    return kept[np.lexsort((-kept.scores, kept.image_ids))]
