"""Groups images into videos, as the option ``--videos-from`` says."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from vodet.data.formats.tables import raise_faults
from vodet.errors import ConfigError
from vodet.json_files import shown

STILLS, FOLDER, FIELD = "none", "folder", "field"
MAX_NUMBER = 2**31 - 1  # the index keeps frame numbers in 32 bits

# Roboflow adds a hash to the name of an image, Label Studio puts one in front of it.
_HASHES = re.compile(r"\.rf\.\w+$|(?<![^/])(?=\d*[a-f])[0-9a-f]{8}-")
# Patterns to propose in an error. The first pattern that fits all names is proposed.
_PATTERNS = (
    r"(?P<video>.+)[_-](?P<frame>\d+)_\w+\.rf\.\w+\.\w+",
    r"(?P<video>.+)[_-](?P<frame>\d+)\.\w+",
    r"(?P<video>.*\D)(?P<frame>\d+)\.\w+",
    r"(?:.*/)?[0-9a-f]{8}-(?P<video>.+)[_-](?P<frame>\d+)\.\w+",
)


class Place(NamedTuple):
    """The video that an image belongs to, and the number of the frame in the video."""

    video: str
    number: int


class _Parts(NamedTuple):
    """A file name without its suffix and hashes, split at its last number."""

    before: str
    number: int
    after: str


Find = Callable[[int], Place]  # given the position of an image; raises ValueError


def group_images(
    source: Path,
    names: Sequence[str],
    videos_from: str | None,
    fields: Sequence[Place | None] | None = None,
) -> dict[str, list[tuple[int, int]]]:
    r"""Group images into videos.

    Args:
        source: The annotation file, for error messages. Images that are in no folder belong to a
            video with the name of this file.
        names: The file names of the images.
        videos_from: ``none`` makes a video of each image. ``folder`` makes a video of each folder;
            the last number in the name of an image is the frame number. ``field`` takes both from
            ``fields``. Any other text is a regular expression for the whole file name, with the
            groups ``video`` and ``frame``, or with two groups in this order. Without a choice,
            each image becomes a video, unless the images seem to be frames of videos.
        fields: What the entry of each image says; None for an image whose entry lacks a field.
            None instead of a sequence if the format has no such fields.

    Returns:
        For each video, the frame numbers in ascending order, each with the position of the image
        in ``names``.

    Raises:
        ConfigError: If ``videos_from`` is missing but necessary, or invalid.
        DataError: If an image has no video or frame number, or two images have the same.
    """
    if videos_from is None:
        _refuse_frames(source, names, fields)
    find = _finder(videos_from or STILLS, source, names, fields)
    places, faults = _find_all(find, names)
    if faults:
        other = _proposal(source, names)
        advice = f" `--videos-from '{other}'` fits all names." if other else ""
        raise_faults(source, faults, advice if other != videos_from else "")
    videos: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for place, position in places.items():
        videos[place.video].append((place.number, position))
    return {video: sorted(frames) for video, frames in videos.items()}


def _find_all(find: Find, names: Sequence[str]) -> tuple[dict[Place, int], list[str]]:
    """Return the position of the image at each place, and the faults."""
    places: dict[Place, int] = {}
    faults = []
    for position, name in enumerate(names):
        try:
            place = find(position)
        except ValueError as error:
            faults.append(f"{shown(name)}: {error}")
            continue
        first = places.setdefault(place, position)
        if place.number > MAX_NUMBER:
            expected = f"expected a frame number up to {MAX_NUMBER}"
            faults.append(f"{shown(name)}: {expected}, found {place.number}")
        elif first != position:
            where = f"expected one image with number {place.number} in video {shown(place.video)}"
            faults.append(f"{where}, found {shown(names[first])} and {shown(name)}")
    return places, faults


def _finder(
    videos_from: str, source: Path, names: Sequence[str], fields: Sequence[Place | None] | None
) -> Find:
    if videos_from == STILLS:
        return lambda position: Place(_without_suffix(names[position]), 0)
    if videos_from == FOLDER:
        return lambda position: _by_folder(names[position], source)
    if videos_from == FIELD and fields is not None:
        return lambda position: _by_field(fields[position])
    pattern = _compile(videos_from, has_fields=fields is not None)
    return lambda position: _by_pattern(names[position], pattern)


def _by_folder(name: str, source: Path) -> Place:
    parts = _split(name)
    if parts is None:
        msg = "expected a name with a frame number, found no digit"
        raise ValueError(msg)
    folder = _with_slashes(name).rpartition("/")[0]
    return Place(folder or source.name.split(".")[0], parts.number)


def _by_field(place: Place | None) -> Place:
    if place is None:
        msg = (
            "expected the fields video and frame_number, or video_id and frame_id, of this image; "
            "found at most one of each"
        )
        raise ValueError(msg)
    return place


def _by_pattern(name: str, pattern: re.Pattern[str]) -> Place:
    match = pattern.fullmatch(_with_slashes(name))
    if match is None:
        msg = f"expected a name that matches `{pattern.pattern}` from its first to its last letter"
        raise ValueError(msg)
    named = "video" in pattern.groupindex
    video, frame = match["video" if named else 1], match["frame" if named else 2]
    if not video or not (frame or "").isdecimal():
        found = f"video {shown(video)} and frame {shown(frame)}"
        msg = f"`{pattern.pattern}`: expected a video and a whole frame number, found {found}"
        raise ValueError(msg)
    return Place(video, int(frame))


def _compile(text: str, *, has_fields: bool) -> re.Pattern[str]:
    choices = [STILLS, FOLDER, *([FIELD] if has_fields else [])]
    expected = (
        f"--videos-from: expected {', '.join(choices)}, or a regular expression for file names "
        "with the groups (?P<video>...) and (?P<frame>...)"
    )
    try:
        pattern = re.compile(text)
    except re.error as error:
        msg = f"{expected}; found {text!r}, which is not a regular expression: {error}."
        raise ConfigError(msg) from error
    if pattern.groupindex.keys() >= {"video", "frame"}:
        return pattern
    if pattern.groupindex or pattern.groups != 2:
        msg = f"{expected}; found {text!r}, which does not have them."
        raise ConfigError(msg)
    return pattern


def _refuse_frames(
    source: Path, names: Sequence[str], fields: Sequence[Place | None] | None
) -> None:
    """Raise an error if images without the option ``--videos-from`` seem to be frames."""
    if with_fields := [name for name, place in zip(names, fields or (), strict=False) if place]:
        found = f"have fields for their video and frame number, such as {shown(with_fields[0])}"
        option: str | None = FIELD
    elif example := _example_of_frames(names):
        found = f"are numbered like the frames of videos, such as {shown(example)}"
        option = _proposal(source, names)
    else:
        return
    choice = f"'{option}'" if option else "REGEX"
    meaning = "" if option else ", where REGEX has the groups (?P<video>...) and (?P<frame>...)"
    msg = (
        f"{source}: the images {found}. If they are frames of videos, add "
        f"`--videos-from {choice}`{meaning}; if each image is a picture of its own, add "
        f"`--videos-from {STILLS}`."
    )
    raise ConfigError(msg)


def _example_of_frames(names: Sequence[str]) -> str | None:
    """Return a name if most names differ only in a number that grows in regular steps."""
    regular = [group for group in _groups(names) if _is_regular({number for number, _ in group})]
    if sum(map(len, regular)) <= len(names) / 2:
        return None
    return min(regular[0])[1]


def _groups(names: Sequence[str]) -> list[list[tuple[int, str]]]:
    """Group names that differ only in their last number; return the numbers and the names."""
    groups: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for name in names:
        if parts := _split(name):
            groups[parts.before, parts.after].append((parts.number, name))
    return list(groups.values())


def _is_regular(numbers: set[int]) -> bool:
    steps = Counter(later - earlier for earlier, later in pairwise(sorted(numbers)))
    return len(numbers) > 2 and max(steps.values()) > steps.total() / 2


def _proposal(source: Path, names: Sequence[str]) -> str | None:
    """Return a value of ``--videos-from`` that fits all names, or None."""
    num_groups = len(_groups(names))
    for option in (FOLDER, *_PATTERNS):
        places, faults = _find_all(_finder(option, source, names, None), names)
        num_videos = len({place.video for place in places})
        if not faults and (
            num_videos == num_groups or (option != FOLDER and num_videos < num_groups)
        ):
            return option
    return None


def _split(name: str) -> _Parts | None:
    stem = _HASHES.sub("", _without_suffix(_with_slashes(name)))
    match = re.fullmatch(r"(.*?)(\d+)([^\d/]*)", stem, re.DOTALL)
    return _Parts(match[1], int(match[2]), match[3]) if match else None


def _without_suffix(name: str) -> str:
    return name.rpartition(".")[0] or name


def _with_slashes(name: str) -> str:
    return name.replace("\\", "/")
