"""Writes ST-COCO files frame by frame, so that memory use does not grow with the data set."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import msgspec

from vodet.data.formats.records import Box, Category, Frame, Number, Records, Video
from vodet.errors import ConfigError, DataError
from vodet.files import replacing

DECIMALS = 6  # of numbers computed from coordinates; KITTI writes six as well
LEAST_SIDE = 0.01  # pixels; boxes are read as float32, where a smaller side can become 0
FIRST_ANNOTATION = 1  # pycocotools takes an annotation with id 0 for "no match"
OUTSIDE = "boxes entirely outside the image"
NO_AREA = "boxes without area"
DROPPED = "ignore regions (--drop-ignored)"

encode = msgspec.json.Encoder().encode


@dataclass
class Summary:
    """What a conversion wrote and what it left out.

    Args:
        class_names: Names of the classes.
        videos: Number of videos.
        frames: Number of frames.
        support_frames: Number of frames that are not annotated, so they can only be support frames.
        boxes: Number of objects by label.
        ignored: Number of crowds and ignore regions by label.
        clipped: Number of boxes that were clipped to the image.
        skipped: How many boxes, images or other parts of the data set were left out, by reason.
        official_frames: Number of annotated frames that the official split should have; None if it
            is not known.
    """

    class_names: list[str]
    videos: int = 0
    frames: int = 0
    support_frames: int = 0
    boxes: Counter[int] = field(default_factory=Counter)
    ignored: Counter[int] = field(default_factory=Counter)
    clipped: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    official_frames: int | None = None


def check_target(target: Path, *, overwrite: bool, sources: Iterable[Path] = ()) -> None:
    """Check that an output file can be written, before a long conversion starts.

    Args:
        target: The file to write.
        overwrite: Whether an existing file may be replaced.
        sources: The input files, which must not be replaced.

    Raises:
        ConfigError: If the file exists and may not be replaced, is an input file, or does not end
            in ``.json``.
    """
    refuse_source(target, sources)
    if target.suffix != ".json":
        msg = f"DST: expected a name that ends in .json, found {target}."
        raise ConfigError(msg)
    if target.exists() and not overwrite:
        msg = f"{target} exists already. Choose another DST, or replace it with --overwrite."
        raise ConfigError(msg)


def refuse_source(target: Path, sources: Iterable[Path]) -> None:
    """Check that the output file is not one of the input files.

    Raises:
        ConfigError: If ``target`` is one of the ``sources``.
    """
    if os.path.realpath(target) in map(os.path.realpath, sources):
        msg = f"DST: expected a file other than the input, found {target}. Choose another DST."
        raise ConfigError(msg)


def write_st_coco(
    records: Records,
    target: Path,
    *,
    overwrite: bool = False,
    drop_ignored: bool = False,
    on_frame: Callable[[], None] = lambda: None,
) -> Summary:
    """Write a data set to an ST-COCO file, which appears only when it is complete.

    Args:
        records: The data set.
        target: The file to write; its name ends in ``.json``.
        overwrite: Whether an existing file is replaced.
        drop_ignored: Whether crowds and ignore regions are left out, for programs that do not
            support them.
        on_frame: Called after each frame.

    Returns:
        What was written and what was left out.

    Raises:
        ConfigError: If the file exists and may not be replaced.
        DataError: If the data set is faulty, or has no class or no frame.
    """
    check_target(target, overwrite=overwrite)
    if not records.categories:
        msg = f"Nothing to write to {target}: expected a class in the data set, found none."
        raise DataError(msg)
    with (
        replacing(target) as partial,
        partial.open("wb") as images,
        TemporaryFile(dir=partial.parent) as annotations,
    ):
        writing = _Writing(records, images, annotations, drop_ignored)
        writing.write(on_frame)
        if not writing.summary.frames:
            msg = (
                f"Nothing to write to {target}: found no frame. Skipped: {_listed(records)}. Check "
                "SRC and the options of the conversion."
            )
            raise DataError(msg)
    return writing.summary


def _listed(records: Records) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in records.skipped.items()) or "nothing"


class JsonTable:
    """Writes the entries of a JSON array to a file, and gives them consecutive ids.

    Args:
        file: The file, positioned after the opening bracket of the array.
        first_id: Id of the first entry. Annotations need `FIRST_ANNOTATION`.
    """

    def __init__(self, file: IO[bytes], first_id: int = 0) -> None:
        self._file = file
        self._first_id = first_id
        self.size = 0

    def append(self, entry: dict[str, Any]) -> None:
        """Write an entry, and give it the next id."""
        self._file.write(b",\n" if self.size else b"\n")
        self._file.write(encode({"id": self._first_id + self.size, **entry}))
        self.size += 1


class _Writing:
    """Writes one file. Annotations go to a temporary file until all images are written."""

    def __init__(
        self, records: Records, file: IO[bytes], annotations: IO[bytes], drop_ignored: bool
    ) -> None:
        self._records = records
        self._file, self._annotations_file = file, annotations
        self._images = JsonTable(file)
        self._annotations = JsonTable(annotations, FIRST_ANNOTATION)
        self._drop_ignored = drop_ignored
        self._attributes: list[tuple[str, list[str]]] = []
        self.summary = Summary(
            [category.name for category in records.categories],
            skipped=records.skipped,
            official_frames=records.official_frames,
        )

    def write(self, on_frame: Callable[[], None]) -> None:
        """Write the whole file, and call ``on_frame`` after each frame."""
        self._file.write(b'{"info": {}, "images": [')
        for video in self._records.videos:
            for frame in self._frames(video):
                self._write_frame(frame, video.name)
                on_frame()
        self._file.write(b'],\n"annotations": [')
        self._annotations_file.seek(0)
        shutil.copyfileobj(self._annotations_file, self._file)
        categories = [category._asdict() for category in self._records.categories]
        self._file.write(b'],\n"categories": ' + encode(categories))
        if self._attributes:
            videos = [
                {"id": number, "name": name, "attributes": attributes}
                for number, (name, attributes) in enumerate(self._attributes)
            ]
            self._file.write(b',\n"videos": ' + encode(videos))
        self._file.write(b"}\n")

    def _frames(self, video: Video) -> Iterator[Frame]:
        if video.attributes is not None:
            self._attributes.append((video.name, list(video.attributes)))
        self.summary.videos += 1
        yield from video.frames

    def _write_frame(self, frame: Frame, video: str) -> None:
        height, width = frame.size
        image = {
            "file_name": frame.file_name,
            "video": video,
            "frame_number": frame.number,
            "height": height,
            "width": width,
        }
        self._images.append(image if frame.is_annotated else image | {"is_annotated": False})
        self.summary.frames += 1
        self.summary.support_frames += not frame.is_annotated
        for box in frame.boxes:
            if box.is_ignored and self._drop_ignored:
                self.summary.skipped[DROPPED] += 1
            elif (clipped := self._clip(box, frame.size)) is not None:
                counts = self.summary.ignored if box.is_ignored else self.summary.boxes
                counts[box.label] += 1
                category = self._records.categories[box.label]
                self._annotations.append(_annotation(clipped, self._images.size - 1, category))

    def _clip(self, box: Box, size: tuple[int, int]) -> Box | None:
        """Return a box clipped to the image, or None if it has no area there; count both cases."""
        (left, top, right, bottom), (height, width) = box.xyxy, size
        if not _has_area(box.xyxy):
            self.summary.skipped[NO_AREA] += 1
            return None
        inside = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
        if inside == box.xyxy:
            return box
        if not _has_area(inside):
            self.summary.skipped[OUTSIDE] += 1
            return None
        self.summary.clipped += 1
        return box._replace(xyxy=inside, area=None)


def _has_area(xyxy: tuple[Number, Number, Number, Number]) -> bool:
    return xyxy[2] - xyxy[0] >= LEAST_SIDE and xyxy[3] - xyxy[1] >= LEAST_SIDE


def _annotation(box: Box, image_id: int, category: Category) -> dict[str, Any]:
    left, top, right, bottom = box.xyxy
    width, height = _rounded(right - left), _rounded(bottom - top)
    annotation: dict[str, Any] = {
        "image_id": image_id,
        "category_id": category.id,
        "bbox": (_rounded(left), _rounded(top), width, height),
        "area": _rounded(width * height) if box.area is None else box.area,
        "iscrowd": int(box.is_ignored),
        "ignore": int(box.is_ignored),
    }
    if box.track is not None:
        annotation["id_track"] = box.track
    if box.is_occluded is not None:
        annotation["occluded"] = str(int(box.is_occluded))
    return annotation


def _rounded(value: Number) -> Number:
    return round(value, DECIMALS)
