"""Statistics of a data set, and warnings about annotations that may be mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Shaped
from rich.table import Table
from rich.text import Text

from vodet.data.annotations.index import UNKNOWN_TRACK, VideoIndex
from vodet.names import visible
from vodet.structures import Size

SHOWN_SIZES = 8  # in the table


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum of several values."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: Shaped[np.ndarray, " n"]) -> Spread | None:
        """Return the minimum, median and maximum of an array, or ``None`` if it is empty."""
        if len(values) == 0:
            return None
        return cls(float(values.min()), float(np.median(values)), float(values.max()))

    def __str__(self) -> str:
        return f"{self.minimum:.4g} / {self.median:.4g} / {self.maximum:.4g}"


@dataclass(frozen=True)
class Statistics:
    """Statistics of a data set. Ignore regions count as crowds.

    Args:
        videos: Number of videos.
        frames: Number of frames.
        annotated_frames: Number of frames whose objects are known.
        empty_frames: Number of annotated frames without any box.
        boxes: Number of boxes, without crowds.
        crowds: Number of crowds.
        boxes_per_class: Number of boxes of each class, without crowds.
        frame_sizes: Number of frames of each ``(height, width)``, most frequent size first.
        video_lengths: Spread of the number of frames per video; ``None`` without videos.
        box_sizes: Spread of the box sizes, where the size of a box is the square root of its area,
            in pixels; without crowds. ``None`` without boxes.
        tracks: Number of tracks, without crowds.
        track_lengths: Spread of the number of boxes per track; ``None`` without tracks.
        videos_per_attribute: Number of videos with each attribute.
    """

    videos: int
    frames: int
    annotated_frames: int
    empty_frames: int
    boxes: int
    crowds: int
    boxes_per_class: dict[str, int]
    frame_sizes: dict[Size, int]
    video_lengths: Spread | None
    box_sizes: Spread | None
    tracks: int
    track_lengths: Spread | None
    videos_per_attribute: dict[str, int]


def compute_statistics(index: VideoIndex) -> Statistics:
    """Compute the statistics of a data set from its index."""
    objects = ~index.iscrowd
    per_class = np.bincount(index.labels[objects], minlength=len(index.class_names)).tolist()
    sizes, frames_of_size = np.unique(index.sizes, axis=0, return_counts=True)
    by_size = {(h, w): n for (h, w), n in zip(sizes.tolist(), frames_of_size.tolist(), strict=True)}
    width, height = (index.boxes[objects, 2:] - index.boxes[objects, :2]).T
    track_lengths = _track_lengths(index)
    return Statistics(
        videos=index.num_videos,
        frames=index.num_frames,
        annotated_frames=int(index.is_annotated.sum()),
        empty_frames=int((index.is_annotated & (np.diff(index.box_starts) == 0)).sum()),
        boxes=int(objects.sum()),
        crowds=int(index.iscrowd.sum()),
        boxes_per_class=dict(zip(index.class_names, per_class, strict=True)),
        frame_sizes=dict(Counter(by_size).most_common()),
        video_lengths=Spread.of(np.diff(index.video_starts)),
        box_sizes=Spread.of(np.sqrt(width * height)),
        tracks=len(track_lengths),
        track_lengths=Spread.of(track_lengths),
        videos_per_attribute=dict(
            zip(index.attribute_names, index.video_attributes.sum(axis=0).tolist(), strict=True)
        ),
    )


def _frame_of_box(index: VideoIndex) -> Int64[np.ndarray, " boxes"]:
    return np.repeat(np.arange(index.num_frames), np.diff(index.box_starts))


def _track_lengths(index: VideoIndex) -> Int64[np.ndarray, " tracks"]:
    frame_of_box = _frame_of_box(index)
    video_of_box = np.searchsorted(index.video_starts, frame_of_box, side="right")
    counted = (index.track_ids != UNKNOWN_TRACK) & ~index.iscrowd
    tracks = np.stack([video_of_box, index.track_ids], axis=1)[counted]
    return np.unique(tracks, axis=0, return_counts=True)[1]


def statistics_table(index: VideoIndex) -> Table:
    """Return the statistics of a data set as a table to print on the terminal."""
    numbers = compute_statistics(index)
    table = Table("", "", title=Text(visible(index.source)), show_header=False)
    table.add_row("videos", str(numbers.videos))
    table.add_row("frames", str(numbers.frames))
    table.add_row("annotated frames", f"{numbers.annotated_frames} ({numbers.empty_frames} empty)")
    table.add_row("frames per video", _or_none(numbers.video_lengths))
    sizes = list(numbers.frame_sizes.items())
    for (height, width), frames in sizes[:SHOWN_SIZES]:
        table.add_row(f"frames of {width} x {height}", str(frames))
    if others := sizes[SHOWN_SIZES:]:
        table.add_row(f"frames of {len(others)} other sizes", str(sum(n for _, n in others)))
    table.add_section()
    table.add_row("boxes", str(numbers.boxes))
    table.add_row("crowds and ignore regions", str(numbers.crowds))
    table.add_row("box size, pixels", _or_none(numbers.box_sizes))
    table.add_row("tracks", str(numbers.tracks))
    table.add_row("boxes per track", _or_none(numbers.track_lengths))
    table.add_section()
    for name, boxes in numbers.boxes_per_class.items():
        table.add_row(Text(f"boxes of {name!r}"), str(boxes))
    table.add_section()
    for name, videos in numbers.videos_per_attribute.items():
        table.add_row(Text(f"videos with {name!r}"), str(videos))
    table.caption = "Ranges are minimum / median / maximum."
    return table


def oddities(index: VideoIndex) -> list[str]:
    """Return warnings about annotations that ST-COCO allows but that may be mistakes."""
    return [
        *_mixed_sizes(index),
        *_windows_names(index),
        *_boxes_outside(index),
        *_repeated_tracks(index),
    ]


def _mixed_sizes(index: VideoIndex) -> Iterator[str]:
    firsts = index.video_starts[:-1]
    expected = np.repeat(index.sizes[firsts], np.diff(index.video_starts), axis=0)
    rows = np.flatnonzero((index.sizes != expected).any(axis=1))
    videos = np.unique(np.searchsorted(index.video_starts, rows, side="right") - 1)
    if len(rows):
        first, other = (_frame_size(index, int(row)) for row in (firsts[videos[0]], rows[0]))
        yield (
            f"{len(videos)} of {index.num_videos} videos have frames of different sizes (height x "
            f"width). In {index.video_name(videos[0])!r}, {first} and {other}. Training and "
            "evaluation need frames of one size per video, unless data.resize is a Letterbox."
        )


def _frame_size(index: VideoIndex, row: int) -> str:
    height, width = index.sizes[row].tolist()
    return f"frame {index.frame_numbers[row]} ({index.file_name(row)!r}) is {height} x {width}"


def _windows_names(index: VideoIndex) -> Iterator[str]:
    names = [name for name in index.file_names if "\\" in name]
    if names:
        yield (
            f"{len(names)} of {index.num_frames} file names contain the Windows separator `\\`, "
            f"such as {names[0]!r}. Other systems cannot find these files: use `/` instead."
        )


def _boxes_outside(index: VideoIndex) -> Iterator[str]:
    frames = _frame_of_box(index)
    is_outside = (index.boxes[:, 2:] <= 0) | (index.boxes[:, :2] >= index.sizes[frames][:, ::-1])
    rows = np.flatnonzero(is_outside.any(axis=1))
    if len(rows):
        yield (
            f"{len(rows)} of {len(frames)} boxes lie wholly outside their image, the first in "
            f"{index.file_name(int(frames[rows[0]]))!r}. Were they drawn on images of another size?"
        )


def _repeated_tracks(index: VideoIndex) -> Iterator[str]:
    """Warn about tracks with several boxes in one frame; tracks of crowds are not checked."""
    rows = np.flatnonzero((index.track_ids != UNKNOWN_TRACK) & ~index.iscrowd)
    pairs = np.stack([_frame_of_box(index)[rows], index.track_ids[rows]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    repeated = found[counts > 1]
    if len(repeated):
        yield (
            f"In {len(np.unique(repeated[:, 0]))} of {index.num_frames} frames a track has more "
            f"than one box, first in {index.file_name(int(repeated[0, 0]))!r}. Give each object "
            "of a video its own id_track."
        )


def _or_none(spread: Spread | None) -> str:
    return "none" if spread is None else str(spread)
