"""Splits an ST-COCO file into training and validation data, by whole videos."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from jaxtyping import Bool, Float64

from vodet.data.annotations.index import VideoIndex
from vodet.data.annotations.rows import Rows, write_rows
from vodet.errors import ConfigError


def choose_videos(index: VideoIndex, share: float, seed: int = 0) -> Bool[np.ndarray, " videos"]:
    """Choose whole videos for validation, so that each class has the same share of its boxes there.

    Each video goes where its classes and frames are needed most. Videos with a large share of a
    class come first, in random order among equals.

    Args:
        index: The data set.
        share: Wanted share of the frames and of the boxes of each class, between 0 and 1.
        seed: Random seed. The same seed always chooses the same videos.

    Returns:
        Whether each video is for validation.

    Raises:
        ConfigError: If the share is not between 0 and 1, or there are fewer than two videos.
    """
    if not 0 < share < 1:
        msg = f"--val: expected a share above 0 and below 1, found {share}."
        raise ConfigError(msg)
    if index.num_videos < 2:
        msg = (
            f"{index.source} has {index.num_videos} video, and a video is not split. Expected at "
            "least 2 videos."
        )
        raise ConfigError(msg)
    amounts = _amounts(index)
    order = np.random.default_rng(seed).permutation(index.num_videos)
    order = order[np.argsort(-amounts[order].max(axis=1), kind="stable")]
    is_val = np.zeros(index.num_videos, dtype=bool)
    needed_train, needed_val = np.ones(amounts.shape[1]), np.ones(amounts.shape[1])
    for video in order:
        is_val[video] = amounts[video] @ needed_val > amounts[video] @ needed_train
        if is_val[video]:
            needed_val -= amounts[video] / share
        else:
            needed_train -= amounts[video] / (1 - share)
    return is_val


def _amounts(index: VideoIndex) -> Float64[np.ndarray, "videos columns"]:
    """Return the share of the frames and of the boxes of each class that each video has."""
    frames = np.diff(index.video_starts)
    objects = ~index.iscrowd
    video_of_frame = np.repeat(np.arange(index.num_videos), frames)
    video_of_box = np.repeat(video_of_frame, np.diff(index.box_starts))[objects]
    boxes = np.zeros((index.num_videos, len(index.class_names)))
    np.add.at(boxes, (video_of_box, index.labels[objects]), 1)
    counts = np.column_stack([frames, boxes])
    return np.asarray(counts / np.maximum(counts.sum(axis=0), 1))


def write_part(rows: Rows, chosen: set[str], target: Path) -> None:
    """Write the videos of a part to an ST-COCO file; each entry stays as it is.

    Args:
        rows: The file that is split.
        chosen: Names of the videos of the part.
        target: The file to write.
    """
    in_part = [video in chosen for video in rows.videos]
    images = [row for row, chosen_row in zip(rows.images, in_part, strict=True) if chosen_row]
    annotations = [
        row for row, image in zip(rows.annotations, rows.image_of, strict=True) if in_part[image]
    ]
    videos = [video for video in rows.table("videos") if video["name"] in chosen]
    changed: dict[str, list[msgspec.Raw]] = {"images": images, "annotations": annotations}
    if videos:
        changed["videos"] = [msgspec.Raw(msgspec.json.encode(video)) for video in videos]
    write_rows(target, {key: changed.get(key, value) for key, value in rows.document.items()})
