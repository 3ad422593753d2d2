"""vodet-predict: detects objects in videos, and writes annotated videos and the detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from vodet.augmented_stream import stream_factory
from vodet.errors import ConfigError, FrameError
from vodet.inference.prediction import output_files, predict_video
from vodet.inference.reading import raise_faults
from vodet.inference.selection import check_threshold
from vodet.inference.sources import VideoFiles, find_videos
from vodet.inference.streams import check_numbers
from vodet.inference.tubelet_linking import check_linking
from vodet.screen import Screen
from vodet.tasks.checkpoint import load


def predict(config: DictConfig) -> None:
    """Run the detector of ``ckpt`` on each video of ``source``, and write the results.

    Raises:
        ConfigError: If a setting is invalid.
        FrameError: If a video could not be read completely; raised after the last video.
    """
    check_threshold(config.score_threshold)
    check_numbers(config.chunk_size, config.fps)
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
    raise_faults(faults)


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
