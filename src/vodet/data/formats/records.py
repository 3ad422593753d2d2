"""Videos, frames and boxes, as the readers of all formats pass them to the ST-COCO writer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Number = int | float


class Box(NamedTuple):
    """A box in a frame: an object, a crowd or an ignore region.

    Args:
        label: Position of the box's class in ``Records.categories``.
        xyxy: Corners in pixels; they may lie outside the image. The writer clips the boxes.
        track: Id of the object in its video; None if it is unknown.
        area: Area of the object's mask in square pixels; None means the area of the box.
        is_ignored: Whether the box is a crowd or an ignore region, which counts neither as an
            object nor as background.
        is_occluded: Whether the object is partly hidden; None if the data set does not say.
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
        file_name: Path of the image, relative to the image root.
        number: Number of the frame in its video.
        size: ``(height, width)`` of the image in pixels.
        boxes: The annotated boxes.
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
    """A class: its id in the output file, its name and the name of its supercategory."""

    id: int
    name: str
    supercategory: str


@dataclass(frozen=True)
class Records:
    """A data set that is being converted to ST-COCO.

    Args:
        categories: The classes; a label is a position in this sequence.
        videos: The videos, read one by one while they are written.
        num_frames: Number of frames; None if it is not known in advance.
        skipped: How many boxes, images or other parts of the data set are skipped, by reason;
            complete once all videos have been read.
        official_frames: Number of annotated frames that the official split should have; None if no
            official split is read.
    """

    categories: Sequence[Category]
    videos: Iterator[Video]
    num_frames: int | None = None
    skipped: Counter[str] = field(default_factory=Counter)
    official_frames: int | None = None


def categories_of(names: Sequence[str], supercategories: Sequence[str] = ()) -> list[Category]:
    """Return classes with ids from 0; without ``supercategories``, each class is its own."""
    groups = supercategories or names
    return [
        Category(label, name, group)
        for label, (name, group) in enumerate(zip(names, groups, strict=True))
    ]


def ignored_for_all(box: Box, num_classes: int) -> list[Box]:
    """Return one copy of an ignore region per class, since an ignore region holds for one class."""
    return [box._replace(label=label, is_ignored=True) for label in range(num_classes)]
