"""Reads MOT Challenge: images ``{sequence}/img1/%06d.jpg``, boxes ``{sequence}/gt/gt.txt``.

Frames are numbered from 1. CVAT exports in this format are read too: their images may be named
``frame_000000.jpg`` and numbered from 0, so that image 0 is frame 1 of ``gt.txt``, and their file
``gt/labels.txt`` names the classes. Without ``seqinfo.ini``, which CVAT does not write, all images
in ``img1`` are read.

Without ``labels.txt``, the only class is pedestrian. People on vehicles, static persons,
distractors, reflections and crowds are ignore regions, and so are pedestrians whose column ``conf``
is 0. Boxes that extend beyond the image are clipped.
"""

from __future__ import annotations

import configparser
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vodet.data.formats.folders import (
    NUMBERED,
    choose_sequences,
    find_folder,
    named,
    numbered_images,
)
from vodet.data.formats.outline import holds
from vodet.data.formats.records import Box, Category, Records, Video, categories_of
from vodet.data.formats.sequence import Sequence
from vodet.data.formats.tables import Row, integer, number, one_of, read_rows, xyxy
from vodet.errors import DataError
from vodet.files import read_file

# Only the training sequences have annotations; their second halves often serve for validation.
SPLITS = ("train", "half-train", "half-val")
FIRST_FRAME = 1
VISIBLE = 0.5  # objects with a lower visibility count as occluded
OTHER_CLASS = "objects of other classes (vehicles, occluders)"
SAME_IMAGES = "copies of sequences (MOT17 contains each sequence three times)"

_COLUMNS = {
    "frame": integer,
    "id": integer,
    "left": number,
    "top": number,
    "width": number,
    "height": number,
    "conf": one_of(0, 1),
    "class": integer,
    "visibility": number,
}
_LABEL: dict[str, Callable[[str], str]] = {"label": str.strip}


@dataclass(frozen=True)
class _Classes:
    """What the class numbers in ``gt.txt`` mean.

    Args:
        categories: The classes of the data set.
        labels: Label of each class number of an object.
        ignored: Class numbers of ignore regions.
        others: Class numbers that are skipped.
    """

    categories: list[Category]
    labels: dict[int, int]
    ignored: tuple[int, ...] = ()
    others: tuple[int, ...] = ()


@dataclass(frozen=True)
class _SeqInfo:
    """The content of ``seqinfo.ini``: where the images are, their size and their number.

    Args:
        image_folder: The folder of the images.
        pattern: Regular expression for the names of the images, whose group is the frame number.
        size: ``(height, width)`` of the images; None if it is not known.
        length: Number of images; None if it is not known.
    """

    image_folder: str = "img1"
    pattern: str = NUMBERED
    size: tuple[int, int] | None = None
    length: int | None = None


MOT_CHALLENGE = _Classes(
    categories_of(["pedestrian"], ["person"]),
    labels={1: 0},
    ignored=(2, 7, 8, 12, 13),  # person on vehicle, static person, distractor, reflection, crowd
    others=(3, 4, 5, 6, 9, 10, 11),  # vehicles, occluders
)


def recognises(source: Path) -> bool:
    """Return whether a folder holds sequences of MOT Challenge."""
    return holds(source, "gt/gt.txt", "*/gt/gt.txt", "train/*/gt/gt.txt")


def read_mot(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    sequences: Mapping[str, range | None] | None = None,
) -> Records:
    """Read sequences of MOT Challenge (MOT16, MOT17, MOT20).

    Args:
        source: The folder of the sequences, or a folder whose subfolder ``train`` contains them.
        images: The image root, with the same folders as ``source``; by default ``source``.
        split: ``train``, the only split with annotations; ``half-train`` for the first
            ``length // 2 + 1`` frames of each training sequence, ``half-val`` for the remaining
            frames, as in X. Zhou et al., "Tracking Objects as Points" (ECCV 2020).
        sequences: The sequences to read, each with the numbers of its frames to read, or None for
            all its frames. By default all sequences are read, but only one of the three copies of a
            sequence in MOT17.

    Raises:
        DataError: If a file or folder is missing or malformed.
    """
    if split is not None:
        named("--split", split, SPLITS)
    candidates = ("train", ".") if split is None else ("train",)
    folder = find_folder(source, candidates, "sequences of MOT Challenge")
    skipped: Counter[str] = Counter()
    chosen = choose_sequences(_sequences_in(folder), None, {}, sequences, folder)
    if sequences is None:
        chosen = _without_repetitions(chosen, skipped)
    root = images or source
    pixels = root / folder.relative_to(source)
    wanted = sequences or {}
    classes = _read_classes([folder / name for name in chosen])
    videos = (
        _video(folder / name, pixels / name, root, wanted.get(name) or split, classes, skipped)
        for name in chosen
    )
    return Records(classes.categories, videos, None, skipped)


def _sequences_in(folder: Path) -> set[str]:
    if (folder / "gt").is_dir():
        msg = (
            f"Expected a folder of sequences, found one sequence: {folder} contains gt. Set SRC to "
            "its parent folder."
        )
        raise DataError(msg)
    infos, boxes = folder.glob("*/seqinfo.ini"), folder.glob("*/gt/gt.txt")
    return {path.parent.name for path in infos} | {path.parents[1].name for path in boxes}


def _read_classes(folders: list[Path]) -> _Classes:
    """Return the classes in ``gt/labels.txt``; without this file, the classes of MOT Challenge."""
    paths = [folder / "gt" / "labels.txt" for folder in folders]
    there = [path for path in paths if path.is_file()]
    if not there:
        return MOT_CHALLENGE
    names = {tuple(row.values["label"] for row in read_rows(path, _LABEL, "\n")) for path in there}
    if len(names) > 1 or len(there) < len(paths):
        found = f"found {len(names)} versions in {len(there)} of {len(paths)} sequences"
        msg = (
            f"{folders[0].parent}: expected the same gt/labels.txt in every sequence, {found}. "
            "Make the files equal, or convert fewer sequences with --sequences."
        )
        raise DataError(msg)
    categories = categories_of(names.pop())
    return _Classes(categories, {number: number - 1 for number in range(1, len(categories) + 1)})


def _without_repetitions(names: list[str], skipped: Counter[str]) -> list[str]:
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(re.sub("-(DPM|FRCNN|SDP)$", "", name), name)
    if len(first) < len(names):
        skipped[SAME_IMAGES] += len(names) - len(first)
    return list(first.values())


def _video(
    folder: Path,
    pixels: Path,
    root: Path,
    part: range | str | None,
    classes: _Classes,
    skipped: Counter[str],
) -> Video:
    info = _read_seqinfo(folder / "seqinfo.ini")
    images = pixels / info.image_folder
    length = info.length or len(numbered_images(images, info.pattern))
    halves = {
        "half-train": range(1, length // 2 + 2),
        "half-val": range(length // 2 + 2, length + 1),
    }
    frames = halves.get(part) if isinstance(part, str) else part
    sequence = Sequence(folder.name, images, info.pattern, root, frames, first=FIRST_FRAME)
    columns = _COLUMNS | {
        "class": one_of(*sorted([*classes.labels, *classes.ignored, *classes.others]))
    }
    groups = sequence.rows(folder / "gt" / "gt.txt", columns)
    read = sequence.frames(
        lambda frame, _: _boxes(groups.get(frame, []), classes, skipped), info.size
    )
    return Video(sequence.name, read)


def _read_seqinfo(path: Path) -> _SeqInfo:
    parser = configparser.ConfigParser()
    try:
        parser.read_string(read_file(path).decode("utf-8-sig"))
        section = parser["Sequence"]
        return _SeqInfo(
            section.get("imDir", "img1"),
            rf".*?(\d+){re.escape(section.get('imExt', '.jpg'))}",
            (int(section["imHeight"]), int(section["imWidth"])),
            int(section["seqLength"]),
        )
    except FileNotFoundError:
        return _SeqInfo()
    except (OSError, KeyError, ValueError, configparser.Error) as error:
        msg = (
            f"{path}: expected [Sequence] with imWidth, imHeight and seqLength; reading "
            f"them failed with {error!r}."
        )
        raise DataError(msg) from error


def _boxes(rows: list[Row], classes: _Classes, skipped: Counter[str]) -> Iterator[Box]:
    for _, values in rows:
        kind = values["class"]
        if kind in classes.others:
            skipped[OTHER_CLASS] += 1
            continue
        yield Box(
            label=classes.labels.get(kind, 0),
            xyxy=xyxy(values),
            track=str(values["id"]),
            is_ignored=kind in classes.ignored or values["conf"] == 0,
            is_occluded=values["visibility"] < VISIBLE,
        )
