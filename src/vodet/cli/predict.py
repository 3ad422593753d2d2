"""vodet-predict: detects objects in videos, and writes annotated videos and the detections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from vodet.augmented_stream import stream_factory
from vodet.errors import ConfigError, FrameError
from vodet.inference.prediction import output_files, predict_video
from vodet.inference.sources import VideoFiles, find_videos
from vodet.inference.tubelet_linking import check_linking
from vodet.screen import Screen
from vodet.tasks.checkpoint import load


def predict(config: DictConfig) -> None:
    """Run the detector of ``ckpt`` on each video of ``source``, and write the results.

    Raises:
        ConfigError: If a setting is invalid.
        FrameError: If a video could not be read completely; raised after the last video.
    """
    check_numbers(config)
    check_linking(config.tubelet_linking)
    stream = stream_factory(**config.test_time_augmentation)
    videos, folder = find_videos(config.source), Path(config.output)
    check_outputs(videos, folder)
    detector = load(config.ckpt, trusted=config.trusted, map_location=config.device)
    screen = Screen()
    faults = []  # one text per video, empty if it has no faults
    for video in videos:
        try:
            result = predict_video(
                stream(detector),
                video.open(),
                folder,
                detector.class_names,
                score_threshold=config.score_threshold,
                chunk_size=config.chunk_size,
                fps=config.fps,
                tubelet_linking=config.tubelet_linking,
                console=screen,
            )
            faults.append("\n".join(result.faults))
        except FrameError as error:
            faults.append(f"{error} There is no output for this video.")
        if faults[-1] and len(videos) > 1:  # the report at the end repeats it
            screen.print(faults[-1], style="yellow", soft_wrap=True)
    report(faults)


def check_outputs(videos: Sequence[VideoFiles], folder: Path) -> None:
    """Check that no output file would replace a source file.

    Raises:
        ConfigError: If an output file would replace a source file.
    """
    sources = {path.resolve() for video in videos for path in video.paths}
    for video in videos:
        for output in output_files(folder, video.name):
            if output.resolve() in sources:
                msg = (
                    f"output={folder} would replace {output}, which is one of the source videos. "
                    "Choose another output folder, or a source without earlier output."
                )
                raise ConfigError(msg)


def report(faults: Sequence[str]) -> None:
    """Raise an error if a video could not be read completely.

    Args:
        faults: For each video, a text about what could not be read, empty if there is nothing.

    Raises:
        FrameError: If one of the texts is not empty; the message lists all of them.
    """
    found = [text for text in faults if text]
    if len(faults) == 1 and found:
        raise FrameError(found[0])
    if found:
        listed = "\n".join(found).replace("\n", "\n  ")
        msg = (
            f"{len(found)} of {len(faults)} videos could not be read completely. The output of the "
            f"other videos is complete.\n  {listed}"
        )
        raise FrameError(msg)


def check_numbers(config: DictConfig) -> None:
    """Check ``score_threshold``, ``chunk_size`` and ``fps`` in a config.

    Raises:
        ConfigError: If a value is not a number or is out of range.
    """
    for name in ("score_threshold", "chunk_size", "fps"):
        value = config[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            msg = f"{name} must be a number, found {value}."
            raise ConfigError(msg)
    if not isinstance(config.chunk_size, int) or config.chunk_size < 1:
        msg = f"chunk_size must be a whole number and at least 1, found {config.chunk_size}."
        raise ConfigError(msg)
    if not 0 < config.fps < math.inf:
        msg = f"fps must be a finite number above 0, found {config.fps}."
        raise ConfigError(msg)
