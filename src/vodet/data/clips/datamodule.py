"""The data module of an experiment: reads ST-COCO files and builds the data loaders."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal

import cv2
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from vodet.data.annotations.fingerprint import check_same, fingerprint
from vodet.data.annotations.index import VideoIndex
from vodet.data.annotations.source import Source, match_classes, read_source
from vodet.data.clips.collate import collate_clips
from vodet.data.clips.dataset import CachedFrames, ClipDataset
from vodet.data.clips.mixture import MixedClips
from vodet.data.clips.sampler import ClipSampler, WholeVideoSampler
from vodet.data.clips.sampling import ClipSampling, History, TemporalDropout
from vodet.data.clips.training_frames import TrainingFrames
from vodet.data.clips.video_chunks import VideoChunkDataset
from vodet.data.frames.frame_reader import OnBadFrame
from vodet.data.frames.images import ExifUse
from vodet.data.frames.resize import OriginalSize
from vodet.data.frames.transforms import ClipTransform
from vodet.errors import ConfigError, DataError
from vodet.stages import FrameResize
from vodet.structures import ClipBatch, VideoChunk, Window

_log = logging.getLogger(__name__)


class ClipDataModule(LightningDataModule):
    """Provides batches of clips for training, and chunks of whole videos for evaluation.

    The loaders already divide clips and videos among the processes, so the trainer must not divide
    them again: pass it ``use_distributed_sampler=False``. The loaders also work without a trainer.

    Args:
        train: Training data; None for evaluation only.
        extra_train: Additional training sets: a `Source` for each name. Classes of different sets
            are the same if they have the same name.
        balance_classes: Whether clips of rare classes are drawn more often, see `MixedClips`.
        val: Evaluation data; None for training only. Its classes are matched with the detector's
            classes by name.
        class_names: Classes of a trained detector; None takes the classes of the training data or,
            without training data, the classes of ``val``.
        window: The frames that the detector sees around the reference frame.
        batch_size: Clips per training batch and process.
        num_workers: Worker processes per loader; 0 loads in the main process.
        resize: Resizes frames to the evaluation size.
        train_resize: Resizes training frames before the augmentations; None means ``resize``.
        train_transforms: Augmentations: albumentations transforms or compatible ones.
        min_visible: A box is dropped if an augmentation leaves less than this share of its area in
            the picture.
        temporal_dropout: Keeps a random subset of the support frames in training; None keeps all
            support frames.
        history: Additional windows of the same video for each training clip; None means no history.
        losses_on: ``reference`` or ``all``, see `ClipSampling`.
        clips_per_video: Maximum number of training clips per video, evenly spaced; None makes one
            clip around every annotated frame.
        require_complete_tubelets: Whether training leaves out clips if a track starts or ends in
            their window.
        chunk_size: Maximum number of frames per evaluation chunk.
        size_divisor: Training batches are padded so that height and width are multiples of this
            number of pixels.
        on_bad_frame: ``raise`` stops at an image that is missing, damaged or of another size;
            ``skip`` skips it and logs the number of skipped images at the end of the epoch.
        exif: ``apply`` rotates images by their EXIF orientation, as viewers and annotation tools
            do; ``ignore`` leaves images as stored.
        candidate_cache: True or the folder of the caches: training clips hold the numbers of
            frames in a candidate cache instead of pixels. `VideoDetectionTask` writes the cache
            before the training. True puts caches beside the annotations of ``train``.
        seed: Seed of the order of clips and of all random choices for a clip.
        pin_memory: Whether batches are copied to pinned memory; None does so if there is a CUDA
            device.
        multiprocessing_context: Start method of workers: ``fork``, ``spawn`` or ``forkserver``;
            None means the default of the platform.

    Raises:
        ConfigError: If a number is too small, `ClipSampling` rejects its settings,
            ``candidate_cache`` is of another type, or it is used together with augmentations.
    """

    def __init__(
        self,
        *,
        train: Source | None = None,
        extra_train: Mapping[str, Any] | None = None,
        balance_classes: bool = False,
        val: Source | None = None,
        class_names: Sequence[str] | None = None,
        window: Window | None = None,
        batch_size: int = 16,
        num_workers: int = 2,
        resize: FrameResize | None = None,
        train_resize: FrameResize | None = None,
        train_transforms: Sequence[Any] = (),
        min_visible: float = 0.3,
        temporal_dropout: TemporalDropout | None = None,
        history: History | None = None,
        losses_on: str = "reference",
        clips_per_video: int | None = None,
        require_complete_tubelets: bool = False,
        chunk_size: int = 8,
        size_divisor: int = 32,
        on_bad_frame: OnBadFrame = "raise",
        exif: ExifUse = "apply",
        candidate_cache: object = False,  # a config may contain anything
        seed: int = 0,
        pin_memory: bool | None = None,
        multiprocessing_context: str | None = None,
    ) -> None:
        super().__init__()
        numbers = {
            "batch_size": batch_size,
            "chunk_size": chunk_size,
            "clips_per_video": clips_per_video,
        }
        for name, number in numbers.items():
            _require(name, number, least=1)
        _require("num_workers", num_workers, least=0)
        self.train = train
        self.extra_train = dict(extra_train or {})
        self.balance_classes = balance_classes
        self.val = val
        self._class_names = class_names
        self.window = window or Window()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.resize = resize or OriginalSize()
        self.train_resize = train_resize or self.resize
        self.transform = ClipTransform(train_transforms, min_visible)
        self.sampling = ClipSampling(self.window, history or History(), temporal_dropout, losses_on)
        self.clips_per_video = clips_per_video
        self.require_complete_tubelets = require_complete_tubelets
        self.chunk_size = chunk_size
        self.size_divisor = size_divisor
        self.on_bad_frame = on_bad_frame
        self.exif = exif
        self.candidate_cache = _checked_cache(candidate_cache, train_transforms)
        self.cached: Sequence[CachedFrames] | None = None  # the frames of each training set
        self.seed = seed
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.multiprocessing_context = multiprocessing_context

    @cached_property
    def _train_indexes(self) -> list[VideoIndex]:
        """The annotations of each training set, with the labels of its own file; read only once."""
        return [read_source(source, name) for name, source in self._train_sources.items()]

    @property
    def _train_sources(self) -> dict[str, Source]:
        for name, source in self.extra_train.items():
            if not isinstance(source, Source):
                msg = (
                    f"data.extra_train.{name}: expected a source, with _target_="
                    f"{Source.__module__}.Source, annotations and images; found {source}."
                )
                raise ConfigError(msg)
        extra = {f"extra_train.{name}": source for name, source in self.extra_train.items()}
        return {"train": self._source("train"), **extra}

    @cached_property
    def train_indexes(self) -> list[VideoIndex]:
        """The annotations of all training sets, starting with ``train``.

        Their labels are positions in ``class_names``.

        Raises:
            ConfigError: If ``train`` is not set, or a file has a class not in ``class_names``.
            DataError: If a file is missing or invalid.
        """
        for name, index in zip(self._train_sources, self._train_indexes, strict=True):
            if lacking := [known for known in self.class_names if known not in index.class_names]:
                message = "data.%s lacks these classes: %s. There, their objects are background."
                _log.warning(message, name, ", ".join(lacking))
        return [match_classes(index, self.class_names) for index in self._train_indexes]

    @cached_property
    def val_index(self) -> VideoIndex:
        """The annotations for evaluation, read only once.

        Their labels are positions in ``class_names``.

        Raises:
            ConfigError: If ``val`` is not set, or its file has a class not in ``class_names``.
            DataError: If its file is missing or invalid.
        """
        index = read_source(self._source("val"), "val")
        if self._class_names is None and self.train is None:
            return index
        return match_classes(index, self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names of the detector, in order of label.

        They are the argument ``class_names``; without it, the classes of all training sets in order
        of first appearance; without training data, the classes of ``val``.
        """
        if self._class_names is not None:
            return tuple(self._class_names)
        if self.train is None:
            return self.val_index.class_names
        return tuple(dict.fromkeys(n for index in self._train_indexes for n in index.class_names))

    def train_dataloader(self) -> DataLoader[ClipBatch]:
        """Return the loader of training batches; the clips are reshuffled in each epoch.

        Raises:
            ConfigError: If ``candidate_cache`` is set, but no task has written the cache.
        """
        if self.candidate_cache and self.cached is None:
            msg = (
                f"data.candidate_cache={self.candidate_cache}: a VideoDetectionTask writes the "
                "cache when training starts with trainer.fit(task, datamodule=data)."
            )
            raise ConfigError(msg)
        dataset = MixedClips(self._parts())
        shares = [source.share for source in self._train_sources.values()]
        weights = dataset.weights(shares, self.balance_classes)
        sampler = ClipSampler(len(dataset), weights=weights, seed=self.seed)
        collate = partial(collate_clips, size_divisor=self.size_divisor)
        return self._loader(dataset, sampler, batch_size=self.batch_size, collate_fn=collate)

    def _parts(self) -> list[ClipDataset]:
        """Return the clips of each training set."""
        sources, indexes = self._train_sources.values(), self.train_indexes
        cached: Sequence[CachedFrames | None] = self.cached or [None] * len(indexes)
        return [
            self._clips(index, source.images, own)
            for index, source, own in zip(indexes, sources, cached, strict=True)
        ]

    def _clips(self, index: VideoIndex, images: str, cached: CachedFrames | None) -> ClipDataset:
        return ClipDataset(
            index,
            images,
            self.sampling,
            cached=cached,
            resize=self.train_resize,
            transform=self.transform,
            clips_per_video=self.clips_per_video,
            require_complete_tubelets=self.require_complete_tubelets,
            on_bad_frame=self.on_bad_frame,
            exif=self.exif,
            seed=self.seed,
        )

    @cached_property
    def training_frames(self) -> TrainingFrames:
        """All frames that training clips can hold, for a candidate cache."""
        return TrainingFrames(self._parts(), self.size_divisor)

    def frame_loader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return batches of `training_frames`, in order."""
        frames = self.training_frames
        return self._loader(frames, SequentialSampler(frames), batch_size=self.chunk_size)

    def val_dataloader(self) -> DataLoader[VideoChunk]:
        """Return the loader of evaluation chunks, which loads each video from start to end."""
        dataset = VideoChunkDataset(
            self.val_index,
            self._source("val").images,
            resize=self.resize,
            chunk_size=self.chunk_size,
            on_bad_frame=self.on_bad_frame,
            exif=self.exif,
        )
        return self._loader(dataset, WholeVideoSampler(dataset), batch_size=None)

    @cached_property
    def _fingerprints(self) -> dict[str, Any]:
        indexes = zip(self._train_sources, self._train_indexes, strict=True)
        return {name: fingerprint(index) for name, index in indexes}

    def state_dict(self) -> dict[str, Any]:
        """Return the fingerprints of the training data, for checkpoints."""
        return {} if self.train is None else self._fingerprints

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a resumed run has the same training data as the checkpoint.

        Raises:
            ConfigError: If the annotations differ from the fingerprints in the checkpoint.
        """
        check_same(state_dict, self.state_dict())

    def transfer_batch_to_device(
        self, batch: ClipBatch | VideoChunk, device: torch.device, dataloader_idx: int
    ) -> ClipBatch | VideoChunk:
        """Move a training batch to the device, and return an evaluation chunk unchanged.

        The streaming detector itself moves the frames of a chunk when it needs them.
        """
        return batch if isinstance(batch, VideoChunk) else batch.to(device)

    def _source(self, name: Literal["train", "val"]) -> Source:
        source: Source | None = getattr(self, name)
        if source is None:
            msg = f"data.{name} is not set: set data.{name}.annotations and data.{name}.images."
            raise ConfigError(msg)
        return source

    def _loader(self, dataset: Any, sampler: Any, **options: Any) -> DataLoader[Any]:
        if self.num_workers > 0:
            options |= {
                "persistent_workers": True,
                "multiprocessing_context": self.multiprocessing_context,
                "worker_init_fn": _use_one_thread,
            }
        return _ReportingLoader(
            dataset,
            sampler=sampler,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            **options,
        )


class _ReportingLoader(DataLoader[Any]):
    """A data loader that logs the number of skipped frames at the end of each epoch."""

    dataset: MixedClips | TrainingFrames | VideoChunkDataset

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch annotates a private class
        try:
            yield from super().__iter__()
        except (RuntimeError, ConnectionError, EOFError) as error:
            if killed := killed_worker(error):
                raise killed from error
            raise
        finally:  # also if the epoch ends early
            self.dataset.report_bad_frames()


def killed_worker(error: BaseException) -> DataError | None:
    """Return an error with advice if ``error`` means that a loader worker was killed, else None.

    PyTorch has no error class for a killed worker. The main process may get a RuntimeError at any
    time, or a connection error if the worker was sending a batch.
    """
    if "DataLoader worker" not in str(error) and not isinstance(error, ConnectionError | EOFError):
        return None
    return DataError(
        "A data loader worker was killed, most often because memory ran out: "
        f"{str(error).strip()} Reduce data.num_workers (0 loads in the main process), "
        "data.batch_size or data.chunk_size. In a container, /dev/shm may be too small."
    )


def _checked_cache(value: object, transforms: Sequence[Any]) -> bool | str:
    if not isinstance(value, bool | str) or value == "":
        msg = f"data.candidate_cache must be true, false or the name of a folder; found {value!r}."
        raise ConfigError(msg)
    if value and transforms:
        names = ", ".join(type(transform).__name__ for transform in transforms)
        msg = (
            f"data.candidate_cache={value} needs frames that are the same in every epoch: set "
            f"data.train_transforms=[]; found {names}."
        )
        raise ConfigError(msg)
    return value


def _require(name: str, number: int | None, least: int) -> None:
    if number is not None and number < least:
        msg = f"data.{name} must be at least {least}, found {number}."
        raise ConfigError(msg)


def _use_one_thread(worker: int) -> None:
    """Make OpenCV single-threaded in a data loader worker."""
    del worker
    cv2.setNumThreads(0)
