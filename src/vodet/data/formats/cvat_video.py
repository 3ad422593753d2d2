"""Reads "CVAT for video 1.1": an XML file with tracks, of one task, one job or a project.

Frames are numbered as CVAT does it, from 0 in the video that was uploaded, and the name of an
image ends in this number, such as ``frame_000000.png``. CVAT lists a box in every frame of a track;
in frames between two listed ones, the box is interpolated linearly. An object ends at a box that is
``outside``, and after its last box.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

from vodet.data.annotations.st_coco_tables import leaves_root
from vodet.data.formats.folders import NUMBERED, find_folder
from vodet.data.formats.key_frames import KeyFrame, around_rotated, box_at
from vodet.data.formats.outline import has_root
from vodet.data.formats.records import Box, Frame, Records, Video, categories_of
from vodet.data.formats.sequence import Sequence
from vodet.data.formats.tables import integer, number, one_of, raise_faults
from vodet.data.formats.xml_files import content, line_of, one_of_names, read_xml, value
from vodet.errors import DataError

NO_BOX = "shapes that are not boxes (polygons, points, masks, ...)"
_CORNERS = ("xtl", "ytl", "xbr", "ybr")


@dataclass
class _Track:
    """A track: its name, its class, its line in the file, and its boxes by frame number."""

    name: str
    label: int
    line: int
    key_frames: dict[int, KeyFrame] = field(default_factory=dict)


@dataclass
class _Task:
    """A task: its video, its frames if the file says them, and its tracks."""

    name: str
    frames: range | None
    size: tuple[int, int] | None
    tracks: list[_Track] = field(default_factory=list)


def recognises(source: Path) -> bool:
    """Return whether a file, or ``annotations.xml`` in a folder, is of CVAT."""
    file = source / "annotations.xml" if source.is_dir() else source
    return has_root(file, "annotations")


def read_cvat_video(source: Path, *, images: Path | None = None) -> Records:
    """Read an XML file in the format "CVAT for video 1.1".

    Args:
        source: The file, or the folder of ``annotations.xml``.
        images: The image root; by default the folder of the file. The images of a task are in a
            folder with its name, directly or in ``images``. If the file has only one task, they may
            also be in ``images`` or in the root.

    Raises:
        DataError: If a file or folder is missing or malformed.
    """
    file = source / "annotations.xml" if source.is_dir() else source
    root = read_xml(file, "annotations", "annotations of CVAT for video")
    skipped: Counter[str] = Counter()
    try:
        names = _class_names(root)
        tasks = _tasks(root, file.stem)
    except ValueError as error:
        msg = f"{file}: {error}."
        raise DataError(msg) from None
    _read_tracks(root, file, tasks, {name: label for label, name in enumerate(names)}, skipped)
    image_root = images or file.parent
    videos = (_video(task, image_root, file, is_only=len(tasks) == 1) for task in tasks.values())
    return Records(categories_of(names), videos, None, skipped)


def _class_names(root: Element) -> list[str]:
    labels = root.findall("meta/*/labels/label")
    names = [content(label, "name", str) for label in labels if label.find("parent") is None]
    if not names:
        msg = "expected the classes in meta/task/labels/label/name, found none"
        raise ValueError(msg)
    return list(dict.fromkeys(names))


def _tasks(root: Element, stem: str) -> dict[str, _Task]:
    """Return the tasks by id. An export of a single task or job has the id ``""`` in its tracks."""
    elements = root.findall("meta/project/tasks/task")
    single = root.find("meta/task")
    if single is None:
        single = root.find("meta/job")
    if not elements and single is None:
        msg = "expected an element meta with task, job or project, found none"
        raise ValueError(msg)
    if single is not None:
        return {"": _task(single, single.findtext("name") or stem)}
    names = [content(element, "name", str) for element in elements]
    ids = [content(element, "id", str) for element in elements]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return {
        task_id: _task(element, f"{name} {task_id}" if name in repeated else name)
        for task_id, name, element in zip(ids, names, elements, strict=True)
    }


def _task(element: Element, name: str) -> _Task:
    frames = size = None
    if element.findtext("stop_frame"):
        step_text = (element.findtext("frame_filter") or "step=1").partition("step=")[2]
        step = max(integer(step_text or "1"), 1)
        first, last = (content(element, f"{end}_frame", integer) for end in ("start", "stop"))
        frames = range(first, last + 1, step)
    if element.find("original_size") is not None:
        height, width = (
            content(element, f"original_size/{s}", integer) for s in ("height", "width")
        )
        size = (height, width)
    return _Task(name, frames, size)


def _read_tracks(
    root: Element,
    file: Path,
    tasks: dict[str, _Task],
    labels: Mapping[str, int],
    skipped: Counter[str],
) -> None:
    """Add the tracks to their tasks, and raise one error for all faults."""
    faults = []
    picture = root.find("image")
    if picture is not None:
        faults.append(
            f"line {line_of(picture)}: expected tracks, found the element image, as in "
            "CVAT for images. Export the task again as CVAT for video 1.1"
        )
    for element in root.findall("track"):
        try:
            task_id = value(element, "task_id", one_of_names(tasks)) if "" not in tasks else ""
            label = labels[value(element, "label", one_of_names(labels))]
            track = _Track(value(element, "id", str), label, line_of(element))
            for box in element:
                if box.tag == "box":
                    _add_box(track, box)
                else:
                    skipped[NO_BOX] += 1
        except ValueError as error:
            faults.append(str(error))
        else:
            tasks[task_id].tracks.append(track)
    ids = Counter((task, track.name) for task in tasks for track in tasks[task].tracks)
    for (_, name), count in ids.items():
        if count > 1:
            faults.append(f"track: expected each id once, found id {name} {count} times")
    raise_faults(file, faults)


def _add_box(track: _Track, box: Element) -> None:
    frame = value(box, "frame", integer)
    if frame in track.key_frames:
        msg = f"line {line_of(box)}: expected one box in frame {frame} of this track, found two"
        raise ValueError(msg)
    left, top, right, bottom = (value(box, corner, number) for corner in _CORNERS)
    is_outside = value(box, "outside", one_of(0, 1)) == 1
    degrees = value(box, "rotation", number) if "rotation" in box.attrib else 0
    centre = ((left + right) / 2, (top + bottom) / 2)
    track.key_frames[frame] = KeyFrame(
        around_rotated((left, top, right, bottom), degrees, centre),
        is_last=is_outside,
        is_visible=not is_outside,
        is_occluded=value(box, "occluded", one_of(0, 1)) == 1,
    )


def _video(task: _Task, root: Path, file: Path, *, is_only: bool) -> Video:
    named = [] if leaves_root(task.name) else [f"images/{task.name}", task.name]
    places = [*named, *(("images", ".") if is_only or not named else ())]
    folder = find_folder(root, places, f"images of the task {task.name}")
    sequence = Sequence(task.name, folder, NUMBERED, root, task.frames)
    faults = [
        f"line {track.line}: track: expected frames with an image, found frame {frame}"
        for track in task.tracks
        for frame, key_frame in track.key_frames.items()
        if key_frame.is_visible and frame not in sequence.numbers
    ]
    raise_faults(file, faults)
    return Video(task.name, _frames(task, sequence))


def _frames(task: _Task, sequence: Sequence) -> Iterator[Frame]:
    tracks = [(track, sorted(track.key_frames)) for track in task.tracks]

    def boxes_of(frame: int, _: tuple[int, int]) -> Iterator[Box]:
        for track, numbers in tracks:
            if found := box_at(frame, numbers, track.key_frames):
                yield Box(track.label, found.xyxy, track.name, is_occluded=found.is_occluded)

    return sequence.frames(boxes_of, task.size)
