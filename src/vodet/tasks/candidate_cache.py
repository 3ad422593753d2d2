"""Trains candidate fusions from a cache of the frozen base's outputs for each frame.

Without augmentation, the outputs of a frozen base are the same in every epoch. `open_cache` writes
them to a folder once; the training then reads no image and runs no backbone. The name of the folder
is a hash of everything that the outputs depend on, so no training run reads the cache of another
base or frame size.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vodet import __version__
from vodet.data.clips.datamodule import ClipDataModule
from vodet.data.clips.sampler import process_of
from vodet.detector import VideoDetector
from vodet.encodings import EncodedFrames
from vodet.errors import ConfigError
from vodet.files import writing
from vodet.frame_store import FrameStore, gigabytes, write_frames
from vodet.freezing import find_modules
from vodet.screen import Screen

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class CandidateCache:
    """Encodes the frames of training clips from the cached outputs of the base.

    Args:
        detector: The detector, whose base is frozen.
        store: The outputs of the base for each frame.
    """

    def __init__(self, detector: VideoDetector, store: FrameStore) -> None:
        self._detector = detector
        self.store = store

    def encode(self, numbers: Tensor, sizes: Tensor) -> EncodedFrames:
        """Return what `VideoDetector.encode` returns, for frames given by their numbers."""
        frames = self.store.read(numbers.cpu())
        return self._detector.complete(frames.map(lambda tensor: tensor.to(sizes.device)))


def open_cache(detector: VideoDetector, data: ClipDataModule, precision: str) -> CandidateCache:
    """Open the candidate cache of a detector and its training data; write it if there is none.

    Other processes that open the same cache meanwhile wait until it is complete.

    Args:
        detector: The detector with its final base, on the device that encodes the frames.
        data: The training data; from now on its clips hold numbers of frames in the cache.
        precision: The precision of the trainer, whose autocast is active.

    Raises:
        ConfigError: If the base of the detector is not frozen, or the detector has a map fusion.
        FrameError: If an image is missing or damaged.
        OutputError: If the cache does not fit on the disk or cannot be written.
        DataError: If a file of the cache is damaged.
    """
    check_base(detector)
    about = _about(detector, data, precision)
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_root(data) / key
    with _locked(folder):
        if folder.is_dir():
            _print(f"Candidate cache: read from {folder}")
        else:
            _write(folder, detector, data, about)
        store = FrameStore(folder)
    data.cached = data.training_frames.cached(store.sizes.numpy())
    return CandidateCache(detector, store)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a cache against other processes; the system releases the lock if the process dies."""
    with writing(folder, folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _print(f"Candidate cache: waiting for another process, which writes {folder}")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _print(message: str) -> None:
    if process_of()[0] == 0:
        Screen(soft_wrap=True).print(message)


def cache_root(data: ClipDataModule) -> Path:
    """Return the folder that contains all caches."""
    if isinstance(data.candidate_cache, str):
        return Path(data.candidate_cache)
    assert data.train is not None
    return Path(data.train.annotations).parent / "candidate_cache"


def check_base(detector: VideoDetector) -> None:
    """Check that the base of a detector is frozen and that its outputs can be cached.

    Raises:
        ConfigError: If not.
    """
    head = type(detector.head).__name__
    if not detector.head.base_parts:
        msg = (
            f"data.candidate_cache needs a head with candidates, found {head}: choose "
            "model/head=two_stage, one_stage or detr, or set data.candidate_cache=false."
        )
        raise ConfigError(msg)
    if detector.fusion.changes_maps:
        msg = (
            "data.candidate_cache needs a detector without a map fusion, found "
            f"{type(detector.fusion).__name__}: set model/fusion=none or "
            "data.candidate_cache=false."
        )
        raise ConfigError(msg)
    parts = zip(detector.base_parts, _modules(detector), strict=True)
    if trained := [name for name, part in parts if not _is_frozen(part)]:
        frozen = ",".join([*detector.frozen, *trained])
        msg = (
            f"data.candidate_cache needs a frozen base, but {', '.join(trained)} would be trained: "
            f"set model.frozen=[{frozen}] and init_from, or set data.candidate_cache=false."
        )
        raise ConfigError(msg)


def _modules(detector: VideoDetector) -> list[nn.Module]:
    return find_modules(detector, detector.base_parts, "The detector")


def _is_frozen(part: nn.Module) -> bool:
    weights = [*part.parameters()]
    if not weights and not [*part.buffers()]:
        return True
    is_trained = any(module.training for module in part.modules())
    return not is_trained and not any(weight.requires_grad for weight in weights)


def _about(detector: VideoDetector, data: ClipDataModule, precision: str) -> dict[str, Any]:
    """Return the values, as JSON types, that determine the content of a cache."""
    frames = data.training_frames
    return {
        "vodet": __version__,
        "base": [_settings_of(part) for part in _modules(detector)],
        "weights": _hash_of_weights(detector),
        "settings": _text(dict(detector.head.detect_settings())),
        "precision": precision,
        "frame_size": list(frames.size),
        "resize": _text(data.train_resize),
        "exif": data.exif,
        "on_bad_frame": data.on_bad_frame,
        "frames": frames.fingerprint(),
    }


def _settings_of(part: nn.Module) -> str:
    """Return the layers of a part, and the settings that their representation leaves out."""
    plain = (str, int, float, tuple, list, dict, type(None))
    settings = {
        f"{place}.{name}": value
        for place, module in part.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, plain) and not name.startswith("_") and name != "training"
    }
    return _ADDRESS.sub("", f"{part!r} {settings!r}")


def _text(value: object) -> str:
    """Return the representation of a value and its attributes, without addresses in memory."""
    return _ADDRESS.sub("", f"{value!r} {getattr(value, '__dict__', '')!r}")


def _hash_of_weights(detector: VideoDetector) -> str:
    content = hashlib.sha256()
    for part, module in zip(detector.base_parts, _modules(detector), strict=True):
        for name, tensor in chain(module.named_parameters(), module.named_buffers()):
            content.update(f"{part}.{name} {tensor.dtype} {list(tensor.shape)}".encode())
            values = tensor.detach().cpu().contiguous().flatten()
            content.update(values.view(torch.uint8).numpy().data)
    return content.hexdigest()


def _write(
    folder: Path, detector: VideoDetector, data: ClipDataModule, about: dict[str, Any]
) -> None:
    screen, count = Screen(soft_wrap=True), len(data.training_frames)

    def announce(size: int) -> None:
        screen.print(
            f"Candidate cache: {gigabytes(size)} for {count:,} frames, written once to {folder}"
        )

    chunks = map(partial(_detect, detector), shown(data.frame_loader(), count, screen))
    levels = detector.head.cached_levels
    write_frames(folder, chunks, count, levels, about, announce)


def shown(
    batches: DataLoader[Any], frames: int, screen: Screen, seconds: float = 60
) -> Iterator[Sequence[Tensor]]:
    """Yield batches of frames and show the progress: a bar in a terminal, otherwise lines.

    Args:
        batches: Batches of frames and sizes.
        frames: Total number of frames.
        screen: Shows the progress.
        seconds: Time between two lines.
    """
    if screen.is_terminal:
        yield from track(batches, "Encoding frames", console=screen)
        return
    done, printed = 0, time.monotonic()
    for batch in batches:
        yield batch
        done += len(batch[0])
        if time.monotonic() - printed >= seconds:
            printed = time.monotonic()
            screen.print(f"Candidate cache: {done:,} of {frames:,} frames")


@torch.no_grad()
def _detect(detector: VideoDetector, batch: Sequence[Tensor]) -> EncodedFrames:
    """Encode frames as in a training step."""
    was_training = detector.training
    detector.train()
    frames, sizes = (tensor.to(detector.device) for tensor in batch)
    found = detector.detect(frames, sizes)
    detector.train(was_training)
    return found
