"""Reading one image from a folder or any fsspec URL, or saying what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import fsspec
import numpy as np
from jaxtyping import UInt8

from vodet.errors import FrameError
from vodet.files import read_file
from vodet.pictures import (
    JPEG_START,
    MAX_PIXELS,
    PNG_START,
    REDUCTIONS,
    PictureHeader,
    decode_picture,
    read_header,
    turn_upright,
)
from vodet.stages import FrameResize
from vodet.structures import Size

ExifUse = Literal["apply", "ignore"]


def image_path(root: str | Path, file_name: str) -> str:
    """Join an image root, a folder or an fsspec URL, and the name of a file below it."""
    return f"{str(root).rstrip('/')}/{file_name}"


def reduction_for(size: Size, resize: FrameResize) -> int:
    """Return the largest reduction (1, 2, 4 or 8) of a JPEG that does not change a resize.

    The reduced image must be at least as large as the target, and resizing it must lead to the same
    size as resizing the original, so that boxes stay where they are.
    """
    target = resize.target_size(size)
    for reduction in sorted(REDUCTIONS, reverse=True):
        height, width = (-(-side // reduction) for side in size)  # the decoder rounds up
        shrinks = height >= target[0] and width >= target[1]
        if shrinks and resize.target_size((height, width)) == target:
            return reduction
    return 1


def read_frame(
    path: str | Path,
    image_id: int,
    expected_size: Size,
    reduction: int = 1,
    exif: ExifUse = "apply",
) -> UInt8[np.ndarray, "height width 3"]:
    """Read a JPEG or PNG image as RGB.

    Args:
        path: A local path or an fsspec URL.
        image_id: Its id in the annotation file, for the text of errors.
        expected_size: Size of the image according to the annotations.
        reduction: 2, 4 or 8 decodes a JPEG at that part of its size, which is faster than
            shrinking it afterwards. Other formats are read at their own size.
        exif: ``apply`` turns the image as its EXIF orientation asks, as viewers and annotation
            tools do; ``ignore`` leaves it as it is stored.

    Raises:
        FrameError: If the image is missing, truncated, of another format or of another size.
    """
    where = f"{path} (image id {image_id})"
    data = _read_bytes(str(path), where)
    if not data.startswith((JPEG_START, PNG_START)):
        msg = f"{where}: expected a JPEG or PNG image, found {_describe(data)}."
        raise FrameError(msg)
    header = read_header(data)
    if header is None:
        raise _damaged(where, f"its header or end is missing in {len(data)} bytes")
    _check_size(header, expected_size, exif, where)
    try:
        frame = decode_picture(data, header.stored_size, reduction)
    except ValueError as error:
        raise _damaged(where, str(error)) from error
    return turn_upright(frame, header.orientation) if exif == "apply" else frame


def _check_size(header: PictureHeader, expected: Size, exif: ExifUse, where: str) -> None:
    """Refuse an image of another size, or of too many pixels, before it is decoded.

    Raises:
        FrameError: With both sizes, and with the EXIF orientation where that is the cause.
    """
    stored, upright = header.stored_size, header.upright_size
    found, other = (upright, stored) if exif == "apply" else (stored, upright)
    if found != tuple(expected):
        msg = (
            f"{where}: expected an image of {expected[0]} x {expected[1]} pixels (height x width) "
            f"as annotated, found {found[0]} x {found[1]}."
        )
        if other == tuple(expected):
            use = "ignore" if exif == "apply" else "apply"
            msg += (
                f" Its EXIF orientation is {header.orientation}: stored, it is {stored[0]} x "
                f"{stored[1]}, upright {upright[0]} x {upright[1]}. If the boxes fit the other of "
                f"these, set data.exif={use}, for vodet-data --exif {use}."
            )
        raise FrameError(msg)
    if found[0] * found[1] > MAX_PIXELS:
        msg = (
            f"{where}: expected at most {MAX_PIXELS:,} pixels, found {found[0]} x {found[1]}. "
            "Scale the images and their boxes down."
        )
        raise FrameError(msg)


def _read_bytes(path: str, where: str) -> bytes:
    try:
        return _read_url(path) if "://" in path else read_file(path)
    except FileNotFoundError as error:
        advice = "Is the image root right?"
        if "\\" in path:
            advice = "Names with the `\\` of Windows are found nowhere else: write `/`."
        msg = f"{where}: expected an image, found no such file. {advice}"
        raise FrameError(msg) from error
    except OSError as error:
        msg = f"{where}: expected a readable image, found {error}."
        raise FrameError(msg) from error


def _read_url(url: str) -> bytes:
    try:
        with fsspec.open(url, "rb") as file:
            content: bytes = file.read()
            return content
    except OSError:
        raise
    except Exception as error:  # each kind of store has errors of its own
        raise OSError(str(error) or repr(error)) from error


def _describe(data: bytes) -> str:
    return f"{len(data)} bytes starting with {data[:8]!r}" if data else "an empty file"


def _damaged(where: str, found: str) -> FrameError:
    return FrameError(
        f"{where}: expected a whole image, found a truncated or damaged one: {found}. Copy it "
        "again, or write it anew if it looks whole."
    )


def is_image_there(path: str) -> bool:
    """Whether there is a file at a local path or an fsspec URL.

    Raises:
        FrameError: If the place that it names cannot be reached.
    """
    if "://" not in path:
        return os.path.isfile(path)  # noqa: PTH113  of a Path this may raise
    try:
        filesystem, place = fsspec.url_to_fs(path)
        return bool(filesystem.isfile(place))
    except Exception as error:  # each kind of store has errors of its own
        msg = f"{path}: expected a place with images, found {error}."
        raise FrameError(msg) from error
