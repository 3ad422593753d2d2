"""Reads the JSON export of Label Studio for object tracking in videos.

A task is a video, and each result of the type ``videorectangle`` is an object with key frames:
boxes in percent of the image, in frames that are numbered from 1. Boxes between key frames are
interpolated linearly. A key frame with ``enabled: false`` is the last one that shows the object; an
object whose last key frame is enabled is there until the end of the video.

Label Studio does not export images. The images of a video are in a folder with its name.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from vodet.data.formats.folders import NUMBERED, find_folder
from vodet.data.formats.key_frames import KeyFrame, around_rotated, box_at
from vodet.data.formats.outline import first_entries
from vodet.data.formats.records import Box, Records, Video, categories_of
from vodet.data.formats.sequence import Sequence
from vodet.errors import DataError
from vodet.json_files import decode_json, read_json, shown

FIRST_FRAME = 1
KIND = "videorectangle"
NO_BOX = "results that are not boxes in videos (time ranges, texts, ...)"
CANCELLED = "annotations that were cancelled or skipped"
NOT_ANNOTATED = "videos without an annotation"
_HASH = re.compile(r"[0-9a-f]{8}-")  # Label Studio puts it in front of an uploaded file's name


class _KeyFrame(msgspec.Struct, gc=False):
    frame: int
    x: float
    y: float
    width: float
    height: float
    enabled: bool = True
    rotation: float = 0


class _Value(msgspec.Struct, gc=False):
    sequence: list[_KeyFrame]
    labels: list[str]
    framesCount: int | None = None  # noqa: N815  the name in the file


class _Result(msgspec.Struct, gc=False):
    type: str
    value: Any
    id: str = ""


class _Annotation(msgspec.Struct, gc=False):
    result: list[_Result]
    was_cancelled: bool = False


class _Task(msgspec.Struct, gc=False):
    id: int | str
    data: dict[str, Any]
    annotations: list[_Annotation]


def recognises(source: Path) -> bool:
    """Return whether a file is a JSON export of Label Studio."""
    return {"data", "annotations"} <= first_entries(source).get("", {}).keys()


def read_label_studio_video(source: Path, *, images: Path | None = None) -> Records:
    """Read the JSON export of Label Studio of a project with videos.

    Args:
        source: The file.
        images: The image root; by default the folder of the file. The images of a video are in a
            folder with its name; if there is only one video, they may also be in the root.

    Raises:
        DataError: If the file, a folder or an image is missing, or the file is faulty.
    """
    expected = "the JSON export of videos from Label Studio"
    try:
        tasks = decode_json(read_json(source, expected), list[_Task], source)
        skipped: Counter[str] = Counter()
        objects = {place: _objects(place, task, skipped) for place, task in enumerate(tasks)}
    except (msgspec.ValidationError, ValueError) as error:
        msg = f"{source}: expected {expected}; {error}."
        raise DataError(msg) from error
    annotated = {place: found for place, found in objects.items() if found is not None}
    skipped[NOT_ANNOTATED] = len(tasks) - len(annotated)
    names = sorted({value.labels[0] for found in annotated.values() for _, value in found})
    labels = {name: label for label, name in enumerate(names)}
    root = images or source.parent
    videos_of = _video_names(tasks)
    videos = (
        _video(source, videos_of[place], root, found, labels, is_only=len(tasks) == 1)
        for place, found in annotated.items()
    )
    return Records(categories_of(names), videos, None, +skipped)


def _objects(place: int, task: _Task, skipped: Counter[str]) -> list[tuple[str, _Value]] | None:
    """Return the id and the value of each object of a task; None if it is not annotated."""
    valid = [annotation for annotation in task.annotations if not annotation.was_cancelled]
    skipped[CANCELLED] += len(task.annotations) - len(valid)
    if not valid:
        return None
    where = f"[{place}].annotations"
    if len(valid) > 1:
        msg = f"{where}: expected one annotation of task {task.id}, found {len(valid)}"
        raise ValueError(msg)
    objects = []
    for number, result in enumerate(valid[0].result):
        if result.type.lower() != KIND:
            skipped[NO_BOX] += 1
            continue
        value = msgspec.convert(result.value, _Value)
        _check(value, f"{where}[0].result[{number}].value")
        objects.append((result.id, value))
    return objects


def _check(value: _Value, where: str) -> None:
    if len(value.labels) != 1:
        msg = f"{where}.labels: expected one class, found {shown(value.labels)}"
        raise ValueError(msg)
    repeated = [frame for frame, n in Counter(key.frame for key in value.sequence).items() if n > 1]
    if repeated:
        msg = f"{where}.sequence: expected one box in frame {repeated[0]}, found several"
        raise ValueError(msg)
    for key in value.sequence:
        if not all(map(math.isfinite, (key.x, key.y, key.width, key.height, key.rotation))):
            msg = f"{where}.sequence: expected finite numbers in frame {key.frame}"
            raise ValueError(msg)


def _video_names(tasks: list[_Task]) -> list[str]:
    """Return the name of each task's video, without its folder, suffix and hash."""
    names = []
    for task in tasks:
        address = urlsplit(str(task.data.get("video") or next(iter(task.data.values()), "")))
        path = parse_qs(address.query).get("d", [unquote(address.path)])[0]
        stem = PurePosixPath(path.replace("\\", "/")).stem
        names.append(_HASH.sub("", stem, count=1) or str(task.id))
    counts = Counter(names)
    return [
        name if counts[name] == 1 else f"{name} {task.id}"
        for name, task in zip(names, tasks, strict=True)
    ]


def _video(
    source: Path,
    name: str,
    root: Path,
    objects: list[tuple[str, _Value]],
    labels: dict[str, int],
    *,
    is_only: bool,
) -> Video:
    places = [name, f"images/{name}", *([".", "images"] if is_only else [])]
    folder = find_folder(root, places, f"images of the video {name}")
    sequence = Sequence(name, folder, NUMBERED, root, first=FIRST_FRAME)
    last = max(sequence.numbers)
    for _, value in objects:
        _check_frames(source, name, value, len(sequence.numbers), last)

    def boxes_of(frame: int, size: tuple[int, int]) -> Iterator[Box]:
        for track, value in objects:
            key_frames = _key_frames(value, size, last)
            if found := box_at(frame, sorted(key_frames), key_frames):
                yield Box(labels[value.labels[0]], found.xyxy, track or None)

    return Video(name, sequence.frames(boxes_of))


def _check_frames(source: Path, name: str, value: _Value, count: int, last: int) -> None:
    """Check that the images are the frames that Label Studio counted."""
    length = value.framesCount
    frames = [key.frame for key in value.sequence]
    if length is not None and abs(length - count) > 1:  # players differ in the last frame
        found = f"{length} frames (framesCount), found {count} images"
    elif frames and not FIRST_FRAME <= min(frames) <= max(frames) <= last:
        found = f"images for the key frames {min(frames)} to {max(frames)}, found {count} images"
    else:
        return
    msg = (
        f"{source}: video {name}: expected {found}. Label Studio counts frames with the frame rate "
        "of its labelling configuration: extract the images with the same frame rate."
    )
    raise DataError(msg)


def _key_frames(value: _Value, size: tuple[int, int], last: int) -> dict[int, KeyFrame]:
    """Return the key frames of an object, which go on to the last frame of the video if enabled."""
    height, width = size[0] / 100, size[1] / 100
    found = {}
    for key in value.sequence:
        left, top = key.x * width, key.y * height
        corners = (left, top, left + key.width * width, top + key.height * height)
        upright = around_rotated(corners, key.rotation, (left, top))
        found[key.frame] = KeyFrame(upright, is_last=not key.enabled)
    if found and not (final := found[max(found)]).is_last:
        found.setdefault(last, final)
    return found
