"""Videos, frames and boxes that the reader of a format passes to the writer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Number = int | float


class Box(NamedTuple):
    """An object or a region of a frame.

    Args:
        label: Position of its class in the classes of the data set.
        xyxy: Corners in pixels; they may lie outside the image, since the writer clips boxes.
        track: Id of the object in its video.
        area: Area in square pixels, such as of a mask; None means the area of the box.
        is_ignored: Whether it is a crowd or an ignore region: neither object nor background.
        is_occluded: Whether it is partly hidden; None if the data set does not say.
    """

    label: int
    xyxy: tuple[Number, Number, Number, Number]
    track: str | None = None
    area: int | float | None = None
    is_ignored: bool = False
    is_occluded: bool | None = None


class Frame(NamedTuple):
    """A frame of a video.

    Args:
        file_name: Path of its image below the image root.
        number: Its number in its video.
        size: ``(height, width)`` in pixels.
        boxes: Its annotated boxes.
        is_annotated: Whether the frame is annotated, possibly without objects. A frame that is not
            annotated can only be a support frame.
    """

    file_name: str
    number: int
    size: tuple[int, int]
    boxes: Sequence[Box]
    is_annotated: bool = True


class Video(NamedTuple):
    """A video, its frames in order, and its attributes."""

    name: str
    frames: Iterable[Frame]
    attributes: Sequence[str] | None = None


class Category(NamedTuple):
    """A class: its id in the output file, its name and the name of its group."""

    id: int
    name: str
    supercategory: str


@dataclass(frozen=True)
class Records:
    """A data set that is being read.

    Args:
        categories: The classes; a label is a position in this sequence.
        videos: The videos, read one by one while they are written.
        num_frames: Number of frames, if it is known in advance.
        skipped: Number of skipped items by reason; complete once the videos have been read.
        official_frames: Number of annotated frames of the official split, if a split is read.
    """

    categories: Sequence[Category]
    videos: Iterator[Video]
    num_frames: int | None = None
    skipped: Counter[str] = field(default_factory=Counter)
    official_frames: int | None = None


def categories_of(names: Sequence[str], supercategories: Sequence[str] = ()) -> list[Category]:
    """Number classes from 0. Without groups, each class is its own group."""
    groups = supercategories or names
    return [
        Category(label, name, group)
        for label, (name, group) in enumerate(zip(names, groups, strict=True))
    ]


def ignored_for_all(box: Box, num_classes: int) -> list[Box]:
    """Return an ignore region once per class, because evaluation ignores regions by class."""
    return [box._replace(label=label, is_ignored=True) for label in range(num_classes)]
