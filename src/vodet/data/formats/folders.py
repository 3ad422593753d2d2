"""Finds the folders, sequences and numbered images of a data set, and reads image sizes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from PIL import ExifTags, Image

from vodet.errors import ConfigError, DataError, FrameError
from vodet.files import open_file

SHOWN_NAMES = 10
# Of files that count as images. `vodet-data check --decode` reports the files that cannot be read.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# Names of images that end in a number.
NUMBERED = rf"(?i).*?(\d+)(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})"


def find_folder(root: Path, candidates: Iterable[str], what: str) -> Path:
    """Return the first folder that exists among several candidates.

    Args:
        root: The folder that contains the candidates.
        candidates: Paths relative to ``root``; ``.`` for ``root`` itself.
        what: What the folder contains, for the error message.

    Raises:
        DataError: If no candidate exists.
    """
    expected = [root / candidate for candidate in candidates]
    for folder in expected:
        if os.path.isdir(folder):  # noqa: PTH112  a Path raises if a name exceeds its limit
            return folder
    names = listed(path.name for path in root.iterdir()) if root.is_dir() else None
    there = "is not a folder" if names is None else f"contains {names}"
    msg = (
        f"Looked for {what} in {' or '.join(map(str, expected))}, found none; {root} {there}. Set "
        "SRC to the folder of the data set, and --images to the folder of its images."
    )
    raise DataError(msg)


def named(option: str, value: str | None, names: Iterable[str]) -> str:
    """Return the value of a command-line option after checking that it is in ``names``.

    Raises:
        ConfigError: If the value is None or not in ``names``; the message names the option.
    """
    if value is None or value not in names:
        msg = f"{option}: expected one of {', '.join(names)}; found {value or 'nothing'}."
        raise ConfigError(msg)
    return value


def choose_sequences(
    available: Iterable[str],
    split: str | None,
    splits: Mapping[str, Sequence[str]],
    wanted: Mapping[str, range | None] | None,
    where: Path,
) -> list[str]:
    """Return the names of the sequences to read.

    These are the sequences of ``wanted`` or of ``split``, or all available sequences if both are
    None.

    Args:
        available: The sequences in the folder of the data set.
        split: Name of a split, or None.
        splits: The sequences of each split of the data set.
        wanted: A mapping whose keys name the sequences to read, or None.
        where: The folder, for the error message.

    Raises:
        ConfigError: If there is no such split, or both a split and sequences are given.
        DataError: If the folder has no sequences, or lacks one of the sequences to read.
    """
    there = set(available)
    if split is not None and wanted is not None:
        msg = (
            f"Expected either --split or --sequences, found both: {split} and {listed(wanted)}. "
            "Leave out one of them."
        )
        raise ConfigError(msg)
    if split is not None:
        chosen = list(splits[named("--split", split, splits)])
    else:
        chosen = sorted(there) if wanted is None else list(wanted)
    if missing := [name for name in chosen if name not in there]:
        msg = (
            f"{len(missing)} of {len(chosen)} sequences are not in {where}: {listed(missing)}; "
            f"there are: {listed(there)}. Add them, or choose others with --sequences."
        )
        raise DataError(msg)
    if not chosen:
        msg = f"Expected sequences in {where}, found none. Is SRC the folder of the data set?"
        raise DataError(msg)
    return chosen


def read_sequences(text: str) -> dict[str, range | None]:
    """Read the option ``--sequences``: names as ``A,B,C``, or a file with one sequence per line.

    A line ``0002 empty 000000 000232``, as in the seqmaps of KITTI, also gives the first and the
    last frame to read. A first line ``name``, as in the seqmaps of MOT Challenge, is skipped as a
    header.

    Returns:
        The numbers of the frames to read by sequence; None for all frames of a sequence.

    Raises:
        ConfigError: If a line has another form, a sequence is repeated, or there is no sequence.
    """
    is_file = os.path.isfile(text)  # noqa: PTH113  a Path raises if a long list exceeds its limit
    content = Path(text).read_text("utf-8", errors="replace") if is_file else text
    lines = content.splitlines() if is_file else content.split(",")
    sequences: dict[str, range | None] = {}
    for number, line in enumerate(lines, start=1):
        match line.split():
            case []:
                continue
            case [name]:
                frames = None
            case [name, _, first, last] if _is_range(first, last):
                frames = range(int(first), int(last) + 1)
            case _:
                where = f"{text}, line {number}" if is_file else "--sequences"
                msg = (
                    f"{where}: expected a sequence name, or `name empty first last` as in the "
                    f"seqmaps of KITTI; found {line!r}."
                )
                raise ConfigError(msg)
        if name in sequences:
            msg = f"--sequences: expected each sequence once, found {name} twice in {text!r}."
            raise ConfigError(msg)
        sequences[name] = frames
    if is_file and next(iter(sequences), None) == "name":
        del sequences["name"]
    if not sequences:
        msg = (
            "--sequences: expected names as A,B,C or a file with one name per line, found no name "
            f"in {text!r}."
        )
        raise ConfigError(msg)
    return sequences


def _is_range(first: str, last: str) -> bool:
    return first.isdecimal() and last.isdecimal() and int(first) <= int(last)


def numbered_images(
    folder: Path, pattern: str, frames: range | None = None, first: int = 0
) -> dict[int, Path]:
    r"""Return the images of a folder by frame number, in ascending order.

    Args:
        folder: The folder.
        pattern: Regular expression for the names of the images, whose group is the frame number,
            such as ``(\d{6})\.png``.
        frames: Numbers of the frames whose images are wanted; None returns all images.
        first: Number of the first frame in the annotations. If the images are numbered from 0, this
            is added to their numbers.

    Raises:
        DataError: If the folder or a wanted image is missing, there is no image, or two have the
            same number.
    """
    if not folder.is_dir():
        msg = f"Expected a folder of images at {folder}, found none. Check SRC and --images."
        raise DataError(msg)
    images: dict[int, Path] = {}
    for name in sorted(os.listdir(folder)):  # noqa: PTH208  most names need no Path
        if match := re.fullmatch(pattern, name):
            number = int(match[1])
            if number in images:
                found = f"{images[number].name} and {name}"
                msg = f"Expected one image with number {number} in {folder}, found {found}."
                raise DataError(msg)
            images[number] = folder / name
    if 0 in images:
        images = {number + first: image for number, image in images.items()}
    if frames is not None:
        if count := len(frames) - sum(number in frames for number in images):
            missing = (str(number) for number in frames if number not in images)
            more = ", ..." if count > SHOWN_NAMES else ""
            found = f"{count} are missing: {', '.join(islice(missing, SHOWN_NAMES))}{more}"
            msg = f"Expected the images {frames[0]} to {frames[-1]} in {folder}; {found}."
            raise DataError(msg)
        images = {number: images[number] for number in frames}
    if not images:
        msg = f"Expected images whose names match `{pattern}` in {folder}, found none."
        raise DataError(msg)
    return dict(sorted(images.items()))


def image_size(path: Path, expected: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return ``(height, width)`` of an image without decoding it.

    Args:
        path: The image.
        expected: Annotated ``(height, width)``. It may be the size before or after the EXIF
            orientation is applied, because ``data.exif`` decides later whether to apply it.

    Returns:
        The annotated size or, if it is not given, the size after applying the EXIF orientation.

    Raises:
        FrameError: If the file is missing, is not an image, or does not have the annotated size.
    """
    try:
        stored, upright = _read_sizes(path)
    except Exception as error:  # Pillow raises many kinds of errors for other files
        msg = f"Expected an image at {path}; cannot read it: {error}."
        raise FrameError(msg) from error
    if expected is not None and expected not in (stored, upright):
        msg = (
            f"{path}: expected {expected[0]} x {expected[1]} (height x width) as annotated, found "
            f"{upright[0]} x {upright[1]}. The boxes fit only images of the annotated size: use "
            "the original images."
        )
        raise FrameError(msg)
    return upright if expected is None else expected


def _read_sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    with open_file(path) as file, Image.open(file) as image:
        stored = (image.height, image.width)
        # Without EXIF before the pixels, Pillow would decode all pixels to find EXIF after them.
        exif = image.getexif() if "exif" in image.info else {}
        is_turned = exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return stored, stored[::-1] if is_turned else stored


def relative(path: Path, root: Path) -> str:
    """Return the path of an image relative to the image root."""
    return path.relative_to(root).as_posix()


def listed(names: Iterable[str]) -> str:
    """Return the first ten names in alphabetical order as text, or ``nothing`` without names."""
    ordered = sorted(names)
    more = ", ..." if len(ordered) > SHOWN_NAMES else ""
    return ", ".join(ordered[:SHOWN_NAMES]) + more if ordered else "nothing"
