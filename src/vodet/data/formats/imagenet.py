"""ImageNet VID (ILSVRC2015): ``Annotations/VID/{split}/.../%06d.xml`` and ``Data`` likewise."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from vodet.data.formats.folders import find_folder, image_size, listed, named, relative
from vodet.data.formats.imagenet_lists import Selection, read_list
from vodet.data.formats.imagenet_xml import XmlFrame, parse_all
from vodet.data.formats.records import Box, Frame, Records, Video, categories_of
from vodet.errors import DataError

SPLITS = ("train", "val")  # test has no annotations
OFFICIAL_FRAMES = {"train": 1_122_397, "val": 176_126}
CLASSES = {
    "n02691156": "airplane",
    "n02419796": "antelope",
    "n02131653": "bear",
    "n02834778": "bicycle",
    "n01503061": "bird",
    "n02924116": "bus",
    "n02958343": "car",
    "n02402425": "cattle",
    "n02084071": "dog",
    "n02121808": "domestic_cat",
    "n02503517": "elephant",
    "n02118333": "fox",
    "n02510455": "giant_panda",
    "n02342885": "hamster",
    "n02374451": "horse",
    "n02129165": "lion",
    "n01674464": "lizard",
    "n02484322": "monkey",
    "n03790512": "motorcycle",
    "n02324045": "rabbit",
    "n02509815": "red_panda",
    "n02411705": "sheep",
    "n01726692": "snake",
    "n02355227": "squirrel",
    "n02129604": "tiger",
    "n04468005": "train",
    "n01662784": "turtle",
    "n04530566": "watercraft",
    "n02062744": "whale",
    "n02391049": "zebra",
}
LABELS = {name: label for label, name in enumerate(CLASSES)}
NO_XML = "images without an XML file"


@dataclass(frozen=True)
class _Plan:
    """What to read of a video: its frames by stem, and which of them are annotated."""

    name: str
    frames: list[str]
    annotated: set[str] = field(default_factory=set)


def read_imagenet_vid(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    frames: Path | None = None,
    workers: int | None = None,
    check_sizes: bool = False,
) -> Records:
    """Read ImageNet VID.

    Args:
        source: The folder with ``Annotations`` and ``Data``: ``ILSVRC2015``.
        images: Image root, with ``Data/VID``, if it is elsewhere.
        split: ``train`` or ``val``.
        frames: A list of videos or frames (see ``imagenet_lists.read_list``); everything by
            default.
        workers: Number of processes that parse; by default one per processor.
        check_sizes: Whether every image is opened to compare its size.

    Raises:
        DataError: If something is missing or malformed.
    """
    split = named("--split", split, SPLITS)
    annotations = find_folder(source, (f"Annotations/VID/{split}",), "annotations of VID")
    root = images or source
    pixels = find_folder(root, (f"Data/VID/{split}",), "images of VID")
    skipped: Counter[str] = Counter()
    selection = read_list(frames, split) if frames else Selection()
    names = list(selection.frames) or _videos_below(annotations)
    plans = (_plan(name, annotations, pixels, selection, skipped) for name in names)
    reader = _Reader(annotations, pixels, root, workers, check_sizes)
    categories = categories_of(list(CLASSES.values()))
    official = None if frames else OFFICIAL_FRAMES[split]
    return Records(categories, reader.videos(plans, split), None, skipped, official)


def _videos_below(folder: Path) -> list[str]:
    """Return the folders that hold XML files, in order: not those of a split that hold videos."""
    videos = []
    for place, folders, files in os.walk(folder):
        folders.sort()
        if any(name.endswith(".xml") for name in files):
            videos.append(relative(Path(place), folder))
    return videos


def _plan(
    name: str, annotations: Path, pixels: Path, selection: Selection, skipped: Counter[str]
) -> _Plan:
    """Decide what to read of a video. Folders are listed, which is faster than asking for files."""
    described = stems(annotations / name, ".xml")
    there = stems(pixels / name, ".JPEG")
    annotated, length = selection.annotated.get(name), selection.lengths.get(name)
    if length is not None:
        wanted = [f"{number:06d}" for number in range(length)]
    else:
        wanted = [f"{number:06d}" for number in sorted({*selection.frames.get(name, [])})]
    wanted = wanted or sorted(described)
    needed = set(wanted) if annotated is None else {f"{number:06d}" for number in annotated}
    if not needed:
        msg = f"Expected XML files in {annotations / name}, found none."
        raise DataError(msg)
    _expect(needed, described, annotations / name, ".xml")
    _expect(wanted, there, pixels / name, ".JPEG")
    if name not in selection.frames and (unknown := len(there - described)):
        skipped[NO_XML] += unknown
    return _Plan(name, wanted, needed)


def stems(folder: Path, suffix: str) -> set[str]:
    """Return the names of the files of a folder with a suffix, without it.

    Raises:
        DataError: If the folder is missing.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208  a million names, of which no path is needed
    except OSError as error:
        msg = f"Expected a folder of {suffix} files at {folder}, found none ({error.strerror})."
        raise DataError(msg) from error
    return {name.removesuffix(suffix) for name in names if name.endswith(suffix)}


def _expect(wanted: Iterable[str], there: set[str], folder: Path, suffix: str) -> None:
    wanted = set(wanted)
    if missing := wanted - there:
        names = listed(f"{stem}{suffix}" for stem in missing)
        msg = (
            f"{len(missing)} of {len(wanted)} files are not in {folder}: {names}. Each frame needs "
            f"its .JPEG in Data and, where it is annotated, its .xml in Annotations."
        )
        raise DataError(msg)


@dataclass(frozen=True)
class _Reader:
    annotations: Path
    pixels: Path
    root: Path
    workers: int | None
    check_sizes: bool

    def videos(self, plans: Iterable[_Plan], split: str) -> Iterator[Video]:
        """Yield videos, of which a stream of XML files is parsed ahead."""
        waiting: list[_Plan] = []
        paths = self._paths(plans, waiting)
        parsed = parse_all(paths, self.workers or os.cpu_count() or 1)
        while (first := next(parsed, None)) is not None:
            plan = waiting.pop(0)
            rest = islice(parsed, len(plan.annotated) - 1)
            files = dict(zip(sorted(plan.annotated), [first, *rest], strict=True))
            yield Video(f"{split}/{plan.name}", self._frames(plan, files, first.size))

    def _paths(self, plans: Iterable[_Plan], waiting: list[_Plan]) -> Iterator[Path]:
        for plan in plans:
            waiting.append(plan)
            for stem in sorted(plan.annotated):
                yield self.annotations / plan.name / f"{stem}.xml"

    def _frames(
        self, plan: _Plan, files: dict[str, XmlFrame], size: tuple[int, int]
    ) -> Iterator[Frame]:
        """Yield the frames; one without XML has the size of the others."""
        folder = relative(self.pixels / plan.name, self.root)
        annotations = self.annotations / plan.name
        for stem in plan.frames:
            parsed = files.get(stem)
            file_name = f"{folder}/{stem}.JPEG"
            size = size if parsed is None else parsed.size
            if self.check_sizes:
                image_size(self.root / file_name, size)
            boxes = [] if parsed is None else _boxes(parsed, f"{annotations}/{stem}.xml")
            yield Frame(file_name, int(stem), size, boxes, parsed is not None)


def _boxes(parsed: XmlFrame, path: str) -> list[Box]:
    boxes = []
    for place, (name, (left, top, right, bottom), track, is_occluded) in enumerate(parsed.objects):
        if name not in LABELS:
            msg = (
                f"{path}, object {place + 1}: expected the name of one of the 30 classes of "
                f"VID, found {name!r}."
            )
            raise DataError(msg)
        box = Box(LABELS[name], (left, top, right, bottom), track, is_occluded=is_occluded)
        boxes.append(box)
    return boxes
