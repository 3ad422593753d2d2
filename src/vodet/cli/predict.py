"""vodet-predict: a video in, an annotated video and its detections out."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from omegaconf import DictConfig

from vodet.augmented_stream import stream_factory
from vodet.errors import ConfigError
from vodet.inference.prediction import predict_video
from vodet.inference.reading import open_sources
from vodet.inference.tubelet_linking import check_linking
from vodet.tasks.checkpoint import load


def predict(config: DictConfig) -> None:
    """Run the checkpoint that a config names on its source.

    Raises:
        ConfigError: If a setting cannot work.
    """
    check_numbers(config)
    check_linking(config.tubelet_linking)
    stream = stream_factory(**config.test_time_augmentation)
    sources = open_sources(config.source)
    detector = load(config.ckpt, trusted=config.trusted, map_location=find_device(config.device))
    for source in sources:
        predict_video(
            stream(detector),
            source,
            Path(config.output),
            detector.class_names,
            score_threshold=config.score_threshold,
            chunk_size=config.chunk_size,
            fps=config.fps,
            tubelet_linking=config.tubelet_linking,
        )


def check_numbers(config: DictConfig) -> None:
    """Make sure that the numbers of a config can be used.

    Raises:
        ConfigError: If one is no number, or too small.
    """
    for name in ("score_threshold", "chunk_size", "fps"):
        if isinstance(config[name], bool) or not isinstance(config[name], int | float):
            msg = f"{name} must be a number, found {config[name]}."
            raise ConfigError(msg)
    if not isinstance(config.chunk_size, int) or config.chunk_size < 1:
        msg = f"chunk_size must be a whole number and at least 1, found {config.chunk_size}."
        raise ConfigError(msg)
    if not 0 < config.fps < math.inf:
        msg = f"fps must be above 0, found {config.fps}."
        raise ConfigError(msg)


def find_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is a GPU where there is one.

    Raises:
        ConfigError: If this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        count = torch.cuda.device_count()
        msg = (
            f"device={name}: expected a device of this machine, which has {count} GPUs. "
            f"device=cpu runs anywhere. ({error})"
        )
        raise ConfigError(msg) from error
    return torch.device(name)
