"""Reads an image from a folder or an fsspec URL, and reports what is wrong with a bad image."""

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
    """Return the path or URL of an image: the image root, then the file name of the image."""
    return f"{str(root).rstrip('/')}/{file_name}"


def reduction_for(size: Size, resize: FrameResize) -> int:
    """Return the largest factor by which a JPEG can be shrunk during decoding: 1, 2, 4 or 8.

    The shrunk image must be at least as large as the resized frame, and ``resize`` must give it the
    same size as the original image, so that boxes keep their positions.

    Args:
        size: ``(height, width)`` of the original image.
        resize: Applied to the image after decoding.
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
        image_id: Id of the image in the annotation file, for error messages.
        expected_size: Annotated ``(height, width)`` of the image.
        reduction: 2, 4 or 8 decodes a JPEG at 1/2, 1/4 or 1/8 of its size, which is faster than
            shrinking it afterwards; 1 decodes it at full size. A PNG is always decoded at full
            size.
        exif: ``apply`` rotates the image by its EXIF orientation, as viewers and annotation tools
            do; ``ignore`` leaves the image as stored.

    Raises:
        FrameError: If the image is missing, damaged, neither JPEG nor PNG, of another size, or
            larger than `MAX_PIXELS`.
    """
    where = f"{path} (image id {image_id})"
    data = _read_bytes(str(path), where)
    if not data.startswith((JPEG_START, PNG_START)):
        msg = f"{where}: expected a JPEG or PNG image, found {_describe(data)}."
        raise FrameError(msg)
    header = read_header(data)
    if header is None:
        raise _damaged(where, f"its {len(data)} bytes lack a complete header or an end marker")
    _check_size(header, expected_size, exif, where)
    try:
        frame = decode_picture(data, header.stored_size, reduction)
    except ValueError as error:
        raise _damaged(where, str(error)) from error
    return turn_upright(frame, header.orientation) if exif == "apply" else frame


def _check_size(header: PictureHeader, expected: Size, exif: ExifUse, where: str) -> None:
    """Check the size of an image before decoding it.

    Raises:
        FrameError: If the image does not have the expected size, or has too many pixels. If the
            EXIF orientation is the cause, the message says which value of ``exif`` to use.
    """
    stored, upright = header.stored_size, header.upright_size
    found, other = (upright, stored) if exif == "apply" else (stored, upright)
    if found != tuple(expected):
        msg = (
            f"{where}: expected an image of {expected[0]} x {expected[1]} pixels (height x width) "
            f"as annotated, found {found[0]} x {found[1]}."
        )
        if other == tuple(expected):
            use, drawn_on = ("ignore", "stored") if exif == "apply" else ("apply", "upright")
            msg += (
                f" Its EXIF orientation is {header.orientation}: the stored image is {stored[0]} x "
                f"{stored[1]}, the upright image is {upright[0]} x {upright[1]}. If the boxes were "
                f"drawn on the {drawn_on} image, set data.exif={use} (vodet-data: --exif {use})."
            )
        else:
            msg += " Use the images that were annotated, or scale the annotations to these images."
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
        advice = "Check the image root (data.*.images or --images)."
        if "\\" in path:
            advice = "Only Windows reads `\\` as a separator: use `/` in the annotations."
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
    except Exception as error:  # each fsspec backend has its own errors
        raise OSError(str(error) or repr(error)) from error


def _describe(data: bytes) -> str:
    return f"{len(data)} bytes starting with {data[:8]!r}" if data else "an empty file"


def _damaged(where: str, found: str) -> FrameError:
    return FrameError(
        f"{where}: expected an intact image, found a truncated or damaged one: {found}. Copy it "
        "again, or save it again in an image editor if it looks intact."
    )


def is_image_there(path: str) -> bool:
    """Return whether a file exists at a local path or an fsspec URL.

    Raises:
        FrameError: If the server or storage of the URL cannot be reached.
    """
    if "://" not in path:
        return os.path.isfile(path)  # noqa: PTH113  Path.is_file may raise
    try:
        filesystem, place = fsspec.url_to_fs(path)
        return bool(filesystem.isfile(place))
    except Exception as error:  # each fsspec backend has its own errors
        msg = f"{path}: expected a URL that can be reached, found {error}. Check the image root."
        raise FrameError(msg) from error
