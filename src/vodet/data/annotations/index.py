"""The index of a data set: its annotations in compact, read-only arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import SupportsIndex

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Int16, Int32, Int64

from vodet.data.annotations.columns import Columns, PackedStrings, starts_of
from vodet.errors import DataError
from vodet.structures import GroundTruth, Target

UNKNOWN_TRACK = -1


@dataclass(frozen=True)
class FrameRows:
    """The frames of a data set, in any order; element ``i`` of each array describes frame ``i``.

    Args:
        videos: Video of each frame, as a position in the list of video names.
        file_names: Path of each image, relative to the image root.
        image_ids: Image id of each frame in the annotation file.
        frame_numbers: Number of each frame in its video.
        sizes: ``(height, width)`` of each frame in pixels.
        is_annotated: Whether the objects of each frame are known.
    """

    videos: Int[np.ndarray, " F"]
    file_names: PackedStrings
    image_ids: Int64[np.ndarray, " F"]
    frame_numbers: Int32[np.ndarray, " F"]
    sizes: Int32[np.ndarray, "F 2"]
    is_annotated: Bool[np.ndarray, " F"]


@dataclass(frozen=True)
class BoxRows:
    """The boxes of a data set, in any order; element ``i`` of each array describes box ``i``.

    Args:
        frames: Frame of each box, as a position in ``FrameRows``.
        boxes: xyxy in pixels of the image file.
        labels: Class of each box, as a position in the list of class names.
        tracks: Track of each box, a number that identifies the object within its video; -1 if the
            track is unknown.
        areas: Area of each object in square pixels.
        iscrowd: Whether each box is a crowd or an ignore region.
    """

    frames: Int[np.ndarray, " A"]
    boxes: Float32[np.ndarray, "A 4"]
    labels: Int[np.ndarray, " A"]
    tracks: Int[np.ndarray, " A"]
    areas: Float32[np.ndarray, " A"]
    iscrowd: Bool[np.ndarray, " A"]


@dataclass(frozen=True, eq=False, repr=False)
class VideoIndex(Columns):
    """The annotations of a data set: its videos, frames and boxes.

    Each array is a column with one element per video, frame or box. Frames are ordered by video,
    then by frame number; boxes are ordered by frame. All arrays are read-only, and worker
    processes, forked or spawned, share them without copies.

    Args:
        source: The file that the index was read from.
        class_names: Names of the classes; a label is a position in this tuple. When an index is
            read from a file, the classes are in ascending order of category id.
        category_ids: Category id of each label; ``NO_CATEGORY`` for classes that the file lacks.
        video_names: Names of the videos, in the order of their first appearance in the file.
        video_starts: The frames of video ``v`` are rows ``video_starts[v]:video_starts[v + 1]``.
        attribute_names: Names of the video attributes, such as ``night``.
        video_attributes: Whether each video has each attribute, ``[videos, attributes]``.
        file_names: Path of each image, relative to the image root.
        image_ids: Image id of each frame in the annotation file.
        frame_numbers: Number of each frame in its video.
        sizes: ``(height, width)`` of each frame in pixels.
        is_annotated: Whether the objects of each frame are known.
        box_starts: The boxes of frame ``f`` are rows ``box_starts[f]:box_starts[f + 1]``.
        boxes: xyxy in pixels of the image file.
        labels: Class of each box, as a position in ``class_names``.
        track_ids: Track of each box, numbered from 0 in each video; -1 if the track is unknown.
        areas: Annotated area of each object in square pixels; if none is annotated, the area of
            the box.
        iscrowd: Whether each box is a crowd or an ignore region: neither object nor background.

    Raises:
        DataError: If the lengths of the columns do not match.
    """

    source: str
    class_names: tuple[str, ...]
    category_ids: Int64[np.ndarray, " _"]
    video_names: PackedStrings
    video_starts: Int64[np.ndarray, " _"]
    attribute_names: tuple[str, ...]
    video_attributes: Bool[np.ndarray, "_ attributes"]
    file_names: PackedStrings
    image_ids: Int64[np.ndarray, " _"]
    frame_numbers: Int32[np.ndarray, " _"]
    sizes: Int32[np.ndarray, "_ 2"]
    is_annotated: Bool[np.ndarray, " _"]
    box_starts: Int64[np.ndarray, " _"]
    boxes: Float32[np.ndarray, "_ 4"]
    labels: Int16[np.ndarray, " _"]
    track_ids: Int32[np.ndarray, " _"]
    areas: Float32[np.ndarray, " _"]
    iscrowd: Bool[np.ndarray, " _"]

    def __post_init__(self) -> None:
        super().__post_init__()
        frames, boxes = self.num_frames, self.num_boxes
        self._expect(len(self.class_names), "category_ids")
        self._expect(self.num_videos + 1, "video_starts")
        self._expect(self.num_videos, "video_attributes")
        self._expect(frames, "file_names", "image_ids", "frame_numbers", "sizes", "is_annotated")
        self._expect(frames + 1, "box_starts")
        self._expect(boxes, "boxes", "labels", "track_ids", "areas", "iscrowd")

    def _expect(self, length: int, *columns: str) -> None:
        for name in columns:
            if len(getattr(self, name)) != length:
                msg = (
                    f"Column {name!r} of the index of {self.source} should have {length} rows, "
                    f"found {len(getattr(self, name))}. Build all columns from the same videos, "
                    "frames and boxes."
                )
                raise DataError(msg)

    @staticmethod
    def from_rows(
        source: str,
        categories: dict[int, str],
        video_names: Sequence[str],
        frames: FrameRows,
        boxes: BoxRows,
        attributes: Mapping[str, Collection[str]] | None = None,
    ) -> VideoIndex:
        """Build an index from frames and boxes in any order.

        Args:
            source: The file that was read.
            categories: Class name of each category id. Classes are labelled 0, 1, 2, ... in
                ascending order of category id.
            video_names: Names of the videos; ``frames.videos`` contains positions in this list.
            frames: The frames.
            boxes: The boxes of the frames.
            attributes: Attributes by video name; videos without attributes can be left out.

        Raises:
            DataError: If the lengths of the columns do not match.
        """
        frame_order = np.lexsort((frames.frame_numbers, frames.videos))
        frame_of_box = np.argsort(frame_order)[boxes.frames]
        box_order = np.argsort(frame_of_box, kind="stable")
        of_videos = [(attributes or {}).get(name, ()) for name in video_names]
        attribute_names = tuple(dict.fromkeys(chain.from_iterable(of_videos)))
        return VideoIndex(
            source=source,
            class_names=tuple(categories[category] for category in sorted(categories)),
            category_ids=np.array(sorted(categories), np.int64),
            video_names=PackedStrings.pack(video_names),
            video_starts=starts_of(np.bincount(frames.videos, minlength=len(video_names))),
            attribute_names=attribute_names,
            video_attributes=np.array(
                [[name in own for name in attribute_names] for own in of_videos], bool
            ).reshape(len(video_names), len(attribute_names)),
            file_names=frames.file_names.reorder(frame_order),
            image_ids=frames.image_ids[frame_order],
            frame_numbers=frames.frame_numbers[frame_order],
            sizes=frames.sizes[frame_order],
            is_annotated=frames.is_annotated[frame_order],
            box_starts=starts_of(np.bincount(frame_of_box, minlength=len(frame_order))),
            boxes=boxes.boxes[box_order],
            labels=boxes.labels[box_order].astype(np.int16),
            track_ids=_number_per_video(
                frames.videos[boxes.frames[box_order]], boxes.tracks[box_order]
            ),
            areas=boxes.areas[box_order],
            iscrowd=boxes.iscrowd[box_order],
        )

    @property
    def num_videos(self) -> int:
        """Number of videos."""
        return len(self.video_names)

    @property
    def num_frames(self) -> int:
        """Number of frames in all videos."""
        return len(self.image_ids)

    @property
    def num_boxes(self) -> int:
        """Number of boxes in all frames, including crowds and ignore regions."""
        return len(self.boxes)

    def __repr__(self) -> str:
        return (
            f"VideoIndex({self.source!r}: {self.num_videos} videos, {self.num_frames} frames, "
            f"{self.num_boxes} boxes of {len(self.class_names)} classes)"
        )

    def video_name(self, video: SupportsIndex) -> str:
        """Return the name of the video at a position in the index."""
        return self.video_names[video]

    def file_name(self, frame: SupportsIndex) -> str:
        """Return the path of a frame's image, relative to the image root."""
        return self.file_names[frame]

    def video_of(self, frame: SupportsIndex) -> int:
        """Return the position in the index of the video that contains a frame."""
        row = range(self.num_frames)[frame]
        return int(np.searchsorted(self.video_starts, row, side="right")) - 1

    def frames_of(self, video: SupportsIndex) -> range:
        """Return the rows of a video's frames in the index, in order of frame number."""
        row = range(self.num_videos)[video]
        return range(int(self.video_starts[row]), int(self.video_starts[row + 1]))

    def boxes_of(self, frame: SupportsIndex) -> slice:
        """Return the slice of ``boxes`` and the other box columns that belongs to a frame."""
        row = range(self.num_frames)[frame]
        return slice(int(self.box_starts[row]), int(self.box_starts[row + 1]))

    def target(self, frame: SupportsIndex) -> Target:
        """Return the annotated boxes of a frame, including crowds, in pixels of the image file."""
        rows = self.boxes_of(frame)
        return Target(
            boxes=torch.tensor(self.boxes[rows]),
            labels=torch.tensor(self.labels[rows], dtype=torch.int64),
            track_ids=torch.tensor(self.track_ids[rows], dtype=torch.int64),
            iscrowd=torch.tensor(self.iscrowd[rows]),
        )

    def ground_truth(self) -> GroundTruth:
        """Return the ground truth for metrics, which leaves out frames that are not annotated."""
        everything = GroundTruth(
            class_names=self.class_names,
            category_ids=self.category_ids,
            image_ids=self.image_ids,
            sizes=self.sizes,
            videos=np.repeat(np.arange(self.num_videos), np.diff(self.video_starts)),
            frame_numbers=self.frame_numbers,
            box_starts=self.box_starts,
            boxes=self.boxes,
            labels=self.labels.astype(np.int64),
            track_ids=self.track_ids,
            areas=self.areas,
            iscrowd=self.iscrowd,
            attribute_names=self.attribute_names,
            video_attributes=self.video_attributes,
            video_names=tuple(self.video_names),
            source=self.source,
        )
        return everything.select(self.is_annotated)


def _number_per_video(
    videos: Int[np.ndarray, " A"], tracks: Int[np.ndarray, " A"]
) -> Int32[np.ndarray, " A"]:
    """Renumber the tracks of each video as 0, 1, 2, ..., in ascending order; -1 remains -1.

    Args:
        videos: Video of each box.
        tracks: Track of each box.
    """
    known = tracks != UNKNOWN_TRACK
    keys = videos[known].astype(np.int64) * (tracks.max(initial=0) + 1) + tracks[known]
    distinct, position = np.unique(keys, return_inverse=True)
    video_of_track = distinct // (tracks.max(initial=0) + 1)
    first_of_video = np.searchsorted(video_of_track, video_of_track)
    numbers = np.full(len(tracks), UNKNOWN_TRACK, np.int32)
    numbers[known] = (np.arange(len(distinct)) - first_of_video)[position]
    return numbers
