"""What a reader of a format hands to the writer: videos, their frames, the boxes of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Number = int | float


class Box(NamedTuple):
    """An object or a region of a frame.

    Args:
        label: Position in the classes of the set.
        xyxy: In pixels; may leave the image, the writer clips it.
        track: Identity in its video.
        area: In square pixels, where it is not that of the box: of a mask.
        is_ignored: Neither object nor background: crowds and regions not to be considered.
        is_occluded: Whether it is partly hidden; None where the set does not say.
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
        number: In its video.
        size: ``(height, width)`` in pixels.
        boxes: What is annotated.
        is_annotated: Whether its objects are known; a support frame otherwise.
    """

    file_name: str
    number: int
    size: tuple[int, int]
    boxes: Sequence[Box]
    is_annotated: bool = True


class Video(NamedTuple):
    """A video, its frames in order, and what the set says of it as a whole."""

    name: str
    frames: Iterable[Frame]
    attributes: Sequence[str] | None = None


class Category(NamedTuple):
    """A class: its id in the file to write, its name and that of the group it belongs to."""

    id: int
    name: str
    supercategory: str


@dataclass(frozen=True)
class Records:
    """A data set that is being read.

    Args:
        categories: The classes; a label is a position in them.
        videos: The videos; made one by one while they are written.
        num_frames: How many frames will come, where that is known beforehand.
        skipped: What is left out, by reason; complete once the videos have been read.
        official_frames: Number of annotated frames of the official split that is read, if it is
            one.
    """

    categories: Sequence[Category]
    videos: Iterator[Video]
    num_frames: int | None = None
    skipped: Counter[str] = field(default_factory=Counter)
    official_frames: int | None = None


def categories_of(names: Sequence[str], supercategories: Sequence[str] = ()) -> list[Category]:
    """Number classes from 0; one without a group of its own is its own group."""
    groups = supercategories or names
    return [
        Category(label, name, group)
        for label, (name, group) in enumerate(zip(names, groups, strict=True))
    ]


def ignored_for_all(box: Box, num_classes: int) -> list[Box]:
    """Return an ignore region of no class once for each class: evaluation goes class by class."""
    return [box._replace(label=label, is_ignored=True) for label in range(num_classes)]
