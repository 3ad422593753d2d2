"""Sequences, splits and images of KITTI tracking and KITTI MOTS.

Images are ``image_02/%04d/%06d.png``, with frames numbered from 0. A frame without a line in the
annotations has no objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from vodet.data.formats.folders import choose_sequences, find_folder
from vodet.data.formats.records import Frame, Video
from vodet.data.formats.sequence import Sequence

_TRAIN = "0000 0001 0003 0004 0005 0009 0011 0012 0015 0017 0019 0020"
_VAL = "0002 0006 0007 0008 0010 0013 0014 0016 0018"
SPLITS = {"train": tuple(_TRAIN.split()), "val": tuple(_VAL.split())}  # splits of KITTI MOTS
OFFICIAL_FRAMES: dict[str | None, int] = {"train": 5027, "val": 2981}
Reader = Callable[[Path, Sequence], Iterator[Frame]]


def read_videos(
    annotations: Path,
    suffix: str,
    read: Reader,
    root: Path,
    split: str | None,
    wanted: Mapping[str, range | None] | None,
) -> Iterator[Video]:
    """Return the sequences to read; the images of a sequence are looked up when it is read.

    Args:
        annotations: Folder with one file or folder per sequence.
        suffix: Suffix of the file or folder names after the name of the sequence.
        read: Reads the frames of a sequence from its file or folder.
        root: Image root, which holds ``image_02`` or ``training/image_02``.
        split: ``train`` or ``val``.
        wanted: Names of sequences, with the frames to read.

    Raises:
        DataError: If something is missing.
    """
    pixels = find_folder(root, ("training/image_02", "image_02"), "images of KITTI")
    there = [path.name.removesuffix(suffix) for path in annotations.glob(f"[0-9]*{suffix}")]
    chosen = choose_sequences(there, split, SPLITS, wanted, annotations)
    ranges = wanted or {}

    def video(name: str) -> Video:
        images = Sequence(name, pixels / name, r"(\d{6})\.png", root, ranges.get(name))
        return Video(name, read(annotations / f"{name}{suffix}", images))

    return map(video, chosen)
