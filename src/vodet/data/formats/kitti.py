"""What the two forms of KITTI's tracking benchmark share: sequences, splits and images.

Images are ``image_02/%04d/%06d.png``, frames from 0. One without a line in the annotations has no
objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vodet.data.formats.folders import (
    choose_sequences,
    find_folder,
    image_size,
    numbered_images,
    relative,
)
from vodet.data.formats.tables import Row, by_frame, read_rows

_TRAIN = "0000 0001 0003 0004 0005 0009 0011 0012 0015 0017 0019 0020"
_VAL = "0002 0006 0007 0008 0010 0013 0014 0016 0018"
SPLITS = {"train": tuple(_TRAIN.split()), "val": tuple(_VAL.split())}  # those of KITTI MOTS
OFFICIAL_FRAMES: dict[str | None, int] = {"train": 5027, "val": 2981}


class Sequence(NamedTuple):
    """A sequence to read.

    Args:
        name: Its name.
        images: Its images by frame.
        root: The image root.
        wanted: The frames that are asked for; None for all.
    """

    name: str
    images: dict[int, Path]
    root: Path
    wanted: range | None

    def rows(self, path: Path, columns: Mapping[str, Callable[[str], Any]]) -> dict[int, list[Row]]:
        """Return the lines of a file of annotations, by frame, of the frames to read.

        Raises:
            DataError: If the file is missing or malformed, or a line is of a frame without image.
        """
        return by_frame(path, read_rows(path, columns, separator=None), self.images, self.wanted)

    def frames(self) -> Iterator[tuple[int, str, tuple[int, int]]]:
        """Yield number, file name and size of each frame."""
        for frame, image in self.images.items():
            yield frame, relative(image, self.root), image_size(image)


def find_annotations(source: Path, name: str, what: str) -> Path:
    """Return the folder of annotations, at the top or in ``training``.

    Raises:
        DataError: If it is missing.
    """
    return find_folder(source, (name, f"training/{name}"), what)


def find_sequences(
    annotations: Path,
    suffix: str,
    root: Path,
    split: str | None,
    wanted: Mapping[str, range | None] | None,
) -> Iterator[Sequence]:
    """Return the sequences to read, each once it is needed.

    Args:
        annotations: Folder with one entry a sequence.
        suffix: What follows the sequence in the names of these entries.
        root: Image root, in which ``image_02`` is or ``training/image_02``.
        split: ``train`` or ``val``.
        wanted: Names of sequences, with the frames to take.

    Raises:
        DataError: If something is missing.
    """
    pixels = find_folder(root, ("training/image_02", "image_02"), "images of KITTI")
    there = [path.name.removesuffix(suffix) for path in annotations.glob(f"[0-9]*{suffix}")]
    chosen = choose_sequences(there, split, SPLITS, wanted, annotations)
    frames = wanted or {}

    def find(name: str) -> Sequence:
        found = numbered_images(pixels / name, r"(\d{6})\.png", frames.get(name))
        return Sequence(name, found, root, frames.get(name))

    return map(find, chosen)
