"""MOT Challenge: ``{sequence}/img1/%06d.jpg`` and ``gt/gt.txt``, frames from 1.

Pedestrians are the one class. People on vehicles, static persons, distractors, reflections and
crowds are ignore regions, as are pedestrians marked as not to be considered. Boxes are annotated
beyond the border of the image; they are clipped.
"""

from __future__ import annotations

import configparser
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from vodet.data.formats.folders import choose_sequences, find_folder, named
from vodet.data.formats.records import Box, Records, Video, categories_of
from vodet.data.formats.sequence import Sequence
from vodet.data.formats.tables import Row, integer, number, one_of, xyxy
from vodet.errors import DataError

# Of those with annotations, which are all called train, halves are usual for validation.
SPLITS = ("train", "half-train", "half-val")
PEDESTRIAN = 1
IGNORED = (2, 7, 8, 12, 13)  # person on vehicle, static person, distractor, reflection, crowd
CLASSES = range(1, 14)
VISIBLE = 0.5  # less is occluded
OTHER_CLASS = "objects of other classes (vehicles, occluders)"
SAME_IMAGES = "sequences with the images of another (MOT17 has each three times)"

_COLUMNS = {
    "frame": integer,
    "id": integer,
    "left": number,
    "top": number,
    "width": number,
    "height": number,
    "conf": one_of(0, 1),
    "class": one_of(*CLASSES),
    "visibility": number,
}


def read_mot(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    sequences: Mapping[str, range | None] | None = None,
) -> Records:
    """Read sequences of MOT Challenge (MOT16, MOT17, MOT20).

    Args:
        source: The folder of the sequences, or that with ``train``.
        images: Image root, if the images are elsewhere in the same folders.
        split: ``train``, the only one with annotations; ``half-train`` and ``half-val`` for the
            first ``length // 2 + 1`` frames of each sequence and for the others, as X. Zhou et al.,
            "Tracking Objects as Points" (ECCV 2020), divide them.
        sequences: Names of sequences, with the frames to take; all by default, of which MOT17's
            repetitions for each detector are taken once.

    Raises:
        DataError: If something is missing or malformed.
    """
    if split is not None:
        named("--split", split, SPLITS)
    candidates = ("train", ".") if split is None else ("train",)
    folder = find_folder(source, candidates, "sequences of MOT Challenge")
    skipped: Counter[str] = Counter()
    there = [path.parent.name for path in folder.glob("*/seqinfo.ini")]
    chosen = choose_sequences(there, None, {}, sequences, folder)
    if sequences is None:
        chosen = _without_repetitions(chosen, skipped)
    root = images or source
    pixels = root / folder.relative_to(source)
    wanted = sequences or {}
    videos = (
        _video(folder / name, pixels / name, root, wanted.get(name) or split, skipped)
        for name in chosen
    )
    return Records(categories_of(["pedestrian"], ["person"]), videos, None, skipped)


def _without_repetitions(names: list[str], skipped: Counter[str]) -> list[str]:
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(re.sub("-(DPM|FRCNN|SDP)$", "", name), name)
    if len(first) < len(names):
        skipped[SAME_IMAGES] += len(names) - len(first)
    return list(first.values())


def _video(
    folder: Path, pixels: Path, root: Path, part: range | str | None, skipped: Counter[str]
) -> Video:
    image_folder, extension, size, length = _read_seqinfo(folder / "seqinfo.ini")
    halves = {
        "half-train": range(1, length // 2 + 2),
        "half-val": range(length // 2 + 2, length + 1),
    }
    frames = halves.get(part) if isinstance(part, str) else part
    pattern = rf"(\d+){re.escape(extension)}"
    sequence = Sequence(folder.name, pixels / image_folder, pattern, root, frames)
    groups = sequence.rows(folder / "gt" / "gt.txt", _COLUMNS)
    read = sequence.frames(lambda frame, _: _boxes(groups.get(frame, []), skipped), size)
    return Video(sequence.name, read)


def _read_seqinfo(path: Path) -> tuple[str, str, tuple[int, int], int]:
    """Return folder, extension, size and number of the images."""
    parser = configparser.ConfigParser()
    try:
        parser.read_string(path.read_text("utf-8"))
        section = parser["Sequence"]
        size = (int(section["imHeight"]), int(section["imWidth"]))
        length = int(section["seqLength"])
        return section.get("imDir", "img1"), section.get("imExt", ".jpg"), size, length
    except (OSError, KeyError, ValueError, configparser.Error) as error:
        msg = f"{path}: expected [Sequence] with imWidth, imHeight and seqLength, found: {error!r}."
        raise DataError(msg) from error


def _boxes(rows: list[Row], skipped: Counter[str]) -> Iterator[Box]:
    for _, values in rows:
        kind = values["class"]
        if kind != PEDESTRIAN and kind not in IGNORED:
            skipped[OTHER_CLASS] += 1
            continue
        yield Box(
            label=0,
            xyxy=xyxy(values),
            track=str(values["id"]),
            is_ignored=kind in IGNORED or values["conf"] == 0,
            is_occluded=values["visibility"] < VISIBLE,
        )
