"""The sequences, splits and images that KITTI tracking and KITTI MOTS share.

Images are ``image_02/%04d/%06d.png``, with frames numbered from 0. A frame that the
annotation file does not mention has no objects.
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
    """Yield the sequences to read as videos. Images are looked up sequence by sequence.

    Args:
        annotations: Folder with one file or folder per sequence.
        suffix: What follows the name of a sequence in the name of its file or folder.
        read: Reads the frames of a sequence from its file or folder.
        root: The image root, which contains ``image_02`` or ``training/image_02``.
        split: ``train``, ``val`` or None.
        wanted: The sequences to read if ``split`` is None, each with the numbers of its frames to
            read, or None for all its frames.

    Raises:
        DataError: If a sequence or its images are missing.
    """
    pixels = find_folder(root, ("training/image_02", "image_02"), "images of KITTI")
    there = [path.name.removesuffix(suffix) for path in annotations.glob(f"[0-9]*{suffix}")]
    chosen = choose_sequences(there, split, SPLITS, wanted, annotations)
    ranges = wanted or {}

    def video(name: str) -> Video:
        images = Sequence(name, pixels / name, r"(\d{6})\.png", root, ranges.get(name))
        return Video(name, read(annotations / f"{name}{suffix}", images))

    return map(video, chosen)
