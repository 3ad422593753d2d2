"""Reads ImageNet VID: ``Annotations/VID/{split}/**/%06d.xml``, ``Data/VID/{split}/**/*.JPEG``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vodet.data.formats.folders import image_size, named, relative
from vodet.data.formats.imagenet_files import Files
from vodet.data.formats.imagenet_lists import Selection, read_list
from vodet.data.formats.imagenet_xml import XmlFrame, parse_all
from vodet.data.formats.outline import holds
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
    """The frames to read from a video.

    Args:
        name: Path of the video below the folder of the split.
        frames: Names of the frames without suffix, such as ``000000``, in order.
        annotated: Names of the frames whose XML files are read, in order.
    """

    name: str
    frames: list[str]
    annotated: list[str]


def recognises(source: Path) -> bool:
    """Return whether a folder holds ImageNet VID."""
    return holds(source, "Annotations/VID")


def read_imagenet_vid(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    frames: Path | None = None,
    workers: int | None = None,
    check_sizes: bool = False,
) -> Records:
    """Read a split of ImageNet VID.

    Args:
        source: The folder with ``Annotations`` and ``Data``, usually ``ILSVRC2015``.
        images: The image root, with ``Data/VID``; by default ``source``.
        split: ``train`` or ``val``.
        frames: A file that lists videos or frames (see ``imagenet_lists.read_list``); by default,
            all videos of the split are read.
        workers: Number of parsing processes; by default one per processor.
        check_sizes: Whether every image is opened to compare its size with the annotated size.

    Raises:
        DataError: If a file or folder is missing or malformed.
    """
    split = named("--split", split, SPLITS)
    root = images or source
    xml = Files(source, "Annotations", f"VID/{split}")
    pictures = Files(root, "Data", f"VID/{split}")
    skipped: Counter[str] = Counter()
    selection = read_list(frames, split) if frames else Selection()
    names = list(selection.frames) or [folder for folder, _ in xml.walk()]
    plans = (_plan(name, xml, pictures, selection, skipped) for name in names)
    reader = _Reader(xml, pictures, root, workers, check_sizes)
    categories = categories_of(list(CLASSES.values()))
    official = None if frames else OFFICIAL_FRAMES[split]
    return Records(categories, reader.videos(plans, split), None, skipped, official)


def _plan(
    name: str, xml: Files, images: Files, selection: Selection, skipped: Counter[str]
) -> _Plan:
    """Decide which frames of a video to read, and check that their files exist."""
    annotated, length = selection.annotated.get(name), selection.lengths.get(name)
    numbers = range(length) if length is not None else sorted({*selection.frames.get(name, [])})
    wanted = _stems(numbers) or sorted(xml.stems(name))
    needed = wanted if annotated is None else _stems(sorted({*annotated}))
    if not needed:
        msg = f"Expected XML files in {xml.folder / name}, found none. Check that SRC is complete."
        raise DataError(msg)
    if odd := [stem for stem in needed if not stem.isdecimal()]:
        msg = (
            "Expected XML files named by frame number, such as 000000.xml, in "
            f"{xml.folder / name}; found {odd[0]}.xml. Remove this file, or restore its original "
            "name."
        )
        raise DataError(msg)
    xml.expect(name, needed)
    images.expect(name, wanted)
    if name not in selection.frames and (unknown := images.stems(name) - xml.stems(name)):
        skipped[NO_XML] += len(unknown)
    return _Plan(name, wanted, needed)


def _stems(numbers: Iterable[int]) -> list[str]:
    return [f"{number:06d}" for number in numbers]


@dataclass(frozen=True)
class _Reader:
    xml: Files
    pictures: Files
    root: Path
    workers: int | None
    check_sizes: bool

    def videos(self, plans: Iterable[_Plan], split: str) -> Iterator[Video]:
        """Yield the videos to read; XML files are parsed ahead, in other processes."""
        waiting: list[_Plan] = []
        paths = self._paths(plans, waiting)
        parsed = parse_all(paths, self.workers)
        while (first := next(parsed, None)) is not None:
            plan = waiting.pop(0)
            rest = islice(parsed, len(plan.annotated) - 1)
            files = dict(zip(plan.annotated, [first, *rest], strict=True))
            yield Video(f"{split}/{plan.name}", self._frames(plan, files, first.size))

    def _paths(self, plans: Iterable[_Plan], waiting: list[_Plan]) -> Iterator[Path]:
        for plan in plans:
            waiting.append(plan)
            for stem in plan.annotated:
                yield self.xml.path(f"{plan.name}/{stem}")

    def _frames(
        self, plan: _Plan, files: dict[str, XmlFrame], size: tuple[int, int]
    ) -> Iterator[Frame]:
        """Yield frames of a video; one without an XML file gets the size of the frame before it."""
        folder = relative(self.pictures.folder / plan.name, self.root)
        annotations = self.xml.folder / plan.name
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
                f"{path}, object {place + 1}: expected the WordNet id of one of the 30 classes of "
                f"VID, found {name!r}."
            )
            raise DataError(msg)
        box = Box(LABELS[name], (left, top, right, bottom), track, is_occluded=is_occluded)
        boxes.append(box)
    return boxes
