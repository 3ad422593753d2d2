"""Evaluates a detector: streams whole videos, gathers the detections and computes the metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from vodet.data.annotations.source import match_classes
from vodet.data.clips.datamodule import ClipDataModule
from vodet.data.clips.sampler import process_of
from vodet.detector import VideoDetector
from vodet.errors import ConfigError, DataError
from vodet.evaluation.measures import Measures
from vodet.evaluation.processes import copy_from_first, gather_to_first, on_first
from vodet.id_lookup import positions_in
from vodet.metrics.detection_table import DetectionTable, Measure
from vodet.streaming import StreamFactory, StreamingDetector
from vodet.structures import FrameDetections, FrameInfo, GroundTruth, VideoChunk

_log = logging.getLogger(__name__)

Processed = tuple[np.ndarray, DetectionTable]  # image ids of the processed frames, their detections


class Evaluator:
    """Evaluates a detector on whole videos; the result does not depend on the number of processes.

    Each process streams different videos through the detector. All processes must call `compute`,
    which gathers the detections on the first process, computes the metrics there and returns them
    on all processes. It raises an error if a frame was not processed or was processed twice.

    Args:
        detector: The detector. It is switched to evaluation mode while detecting and restored
            afterwards.
        data: A `ClipDataModule`, whose ``val`` is evaluated, or a loader of `VideoChunk` whose data
            set has a ``ground_truth``, such as `VideoChunkDataset`. `WholeVideoSampler` gives each
            process its videos.
        measures: Metrics to compute from the detections; COCO AP by default.
        stream: Function that builds the stream to which videos are pushed, given the detector; by
            default a `StreamingDetector`.

    Raises:
        ConfigError: If the loader has no ground truth, the ground truth has a class that the
            detector lacks, or the loader uses a `DistributedSampler`.

    Example:
        ::

            detector = vodet.load("best.ckpt")
            data = vodet.ClipDataModule(
                val=vodet.Source("val.json", "frames"),
                class_names=detector.class_names,
                resize=detector.resize,
            )
            numbers = vodet.Evaluator(detector, data).run()
            print(numbers["map"], numbers["map_50"])
    """

    def __init__(
        self,
        detector: VideoDetector,
        data: ClipDataModule | DataLoader[VideoChunk],
        measures: Measure | None = None,
        *,
        stream: StreamFactory = StreamingDetector,
    ) -> None:
        self.detector = detector
        self.loader = data.val_dataloader() if isinstance(data, ClipDataModule) else data
        self.measures = measures or Measures()
        self.ground_truth = match_classes(ground_truth_of(self.loader), detector.class_names)
        self._stream = stream(detector)
        self._processed: list[np.ndarray] = []
        self._found: list[DetectionTable] = []
        self._infos: list[FrameInfo] = []  # one per frame of the current video
        if self.ground_truth.iscrowd.all() and process_of()[0] == 0:
            _log.warning("%s has no objects, so AP is NaN.", self.ground_truth.source)

    def run(self) -> dict[str, float]:
        """Evaluate the detector on all videos and return the metrics."""
        self.start()
        for chunk in self.loader:
            self.update(chunk)
        return self.compute()

    def start(self) -> None:
        """Begin a new evaluation; all processes must call it.

        It discards earlier detections and copies the detector's buffers, such as the running
        statistics of batch norms, from the first process to all others.
        """
        self.reset()
        # Running statistics differ after training: each process trained on different clips.
        copy_from_first(self.detector.buffers())

    def reset(self) -> None:
        """Discard all detections that were collected."""
        self._processed.clear()
        self._found.clear()

    def update(self, chunk: VideoChunk) -> None:
        """Detect the objects in the next chunk of a video and collect the detections.

        Raises:
            DataError: If the chunk does not continue where the last chunk of its video ended.
        """
        if chunk.is_first:
            self._stream.reset()
            self._infos = []
        else:
            _check_order(self._infos, chunk.infos)
        self._infos += chunk.infos
        with _evaluation_mode(self.detector):
            results = self._push(chunk)
            if chunk.is_last:
                results += self._stream.flush()
        self._keep(results)

    def _push(self, chunk: VideoChunk) -> list[FrameDetections]:
        results: list[FrameDetections] = []
        start = 0
        for (original_size, size), run in groupby(
            chunk.infos, key=lambda info: (info.original_size, info.size)
        ):
            end = start + len(list(run))
            results += self._stream.push_resized(chunk.frames[start:end], original_size, size)
            start = end
        return results

    def _keep(self, results: list[FrameDetections]) -> None:
        """Store which frames were processed, and keep the detections of annotated frames."""
        infos = [self._infos[result.frame_index] for result in results]
        self._processed.append(np.array([info.image_id for info in infos], np.int64))
        annotated = [
            (info.image_id, result.detections)
            for info, result in zip(infos, results, strict=True)
            if info.is_annotated
        ]
        image_ids, detections = zip(*annotated, strict=True) if annotated else ((), ())
        self._found.append(DetectionTable.of_frames(image_ids, detections))

    def gather(self) -> Processed | None:
        """Gather the image ids of the processed frames, and the detections, from all processes.

        The first process returns them; the other processes return None.

        Raises:
            DataError: If a frame was processed twice; raised on all processes.
        """
        nothing = DetectionTable.of_frames([], [])
        own = np.concatenate([nothing.image_ids, *self._processed])
        parts = gather_to_first((own, DetectionTable.cat([nothing, *self._found])))
        on_first(_check_processed_once, parts)
        if parts is None:
            return None
        image_ids, found = zip(*parts, strict=True)
        return np.concatenate(image_ids), DetectionTable.cat(found).by_image()

    def compute(self, *, only_processed: bool = False) -> dict[str, float]:
        """Compute the metrics from the detections of all processes; return them on all processes.

        Args:
            only_processed: If frames were not processed, warn and evaluate only the processed
                frames.

        Raises:
            DataError: If an annotated frame was not processed, or a frame was processed twice;
                raised on all processes.
        """
        return on_first(partial(self._measured, only_processed), self.gather())

    def _measured(self, only_processed: bool, processed: Processed) -> dict[str, float]:
        image_ids, predictions = processed
        truth = self.ground_truth
        is_processed = positions_in(image_ids, truth.image_ids) >= 0
        if not is_processed.all():
            if not only_processed:
                raise DataError(_not_processed(truth, np.flatnonzero(~is_processed)))
            message = "Evaluated only %d of %d annotated frames: the number of batches is limited."
            _log.warning(message, is_processed.sum(), len(is_processed))
            truth = truth.select(is_processed)
        unknown = predictions.image_ids[positions_in(truth.image_ids, predictions.image_ids) < 0]
        if unknown.size:
            msg = (
                f"Expected detections of annotated frames only, found {unknown.size} detections of "
                f"other frames, the first with image id {unknown[0]}. The loader and its "
                "ground_truth must be from the same annotation file."
            )
            raise DataError(msg)
        return self.measures(truth, predictions)


def ground_truth_of(loader: Any) -> GroundTruth:
    """Return the ``ground_truth`` of a loader's data set.

    Raises:
        ConfigError: If the data set has no ``ground_truth``, or the loader has a
            `DistributedSampler`.
    """
    check_sharding(loader)
    ground_truth = getattr(getattr(loader, "dataset", None), "ground_truth", None)
    if not isinstance(ground_truth, GroundTruth):
        msg = (
            "An evaluation needs a DataLoader whose data set has a ground_truth, such as "
            "ClipDataModule(val=...).val_dataloader() or a loader of a VideoChunkDataset; found "
            f"{type(loader).__name__} of {type(getattr(loader, 'dataset', None)).__name__}."
        )
        raise ConfigError(msg)
    return ground_truth


def check_sharding(loader: Any) -> None:
    """Check that a loader does not divide its videos or clips among the processes a second time.

    Raises:
        ConfigError: If the loader has a `DistributedSampler`, as Lightning's trainer adds.
    """
    if isinstance(getattr(loader, "sampler", None), DistributedSampler):
        msg = (
            "Expected a loader that divides its data among the processes with a sampler of vodet, "
            "found a DistributedSampler, which splits videos and repeats frames. Create the "
            "trainer with L.Trainer(use_distributed_sampler=False, ...). If you build the loader "
            "yourself, use WholeVideoSampler."
        )
        raise ConfigError(msg)


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _check_order(before: list[FrameInfo], after: tuple[FrameInfo, ...]) -> None:
    last, first = before[-1] if before else None, after[0]
    if last and last.video == first.video and last.frame_number < first.frame_number:
        return
    place = f"after {last}" if last else "at the start"
    msg = (
        "Expected the chunks of each video in order, one video after the other; found "
        f"{first} {place}. Do not shuffle the loader."
    )
    raise DataError(msg)


def _check_processed_once(parts: list[Processed]) -> None:
    image_ids, counts = np.unique(np.concatenate([own for own, _ in parts]), return_counts=True)
    twice = image_ids[counts > 1]
    if twice.size:
        msg = (
            f"Expected each frame to be processed once, found {twice.size} frames processed more "
            f"than once, the first with image id {twice[0]}. Use WholeVideoSampler, which gives "
            "each video to one process."
        )
        raise DataError(msg)


def _not_processed(truth: GroundTruth, missing: np.ndarray) -> str:
    first = missing[0]
    video = truth.videos[first]
    name = repr(truth.video_names[video]) if truth.video_names else f"number {video}"
    return (
        f"Expected all {len(truth.image_ids)} annotated frames to be processed, found "
        f"{len(missing)} frames that were not, the first with image id {truth.image_ids[first]} in "
        f"video {name}. The loader must give each video from its first to its last frame."
    )
