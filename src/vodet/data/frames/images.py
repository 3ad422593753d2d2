"""Reading one image from a folder or any fsspec URL, or saying what is wrong with it."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import fsspec
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vodet.errors import FrameError
from vodet.stages import FrameResize
from vodet.structures import Size

# Without the alpha channel, in 8 bits, as stored: boxes were drawn on the pixels as they are in
# the file, so the EXIF rotation is not applied. The flag of a reduced scale is taken without its
# colour bit, which asks for BGR and excludes RGB.
_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_JPEG_START, _JPEG_START_OF_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG", b"IEND"


def image_path(root: str | Path, file_name: str) -> str:
    """Join an image root, a folder or an fsspec URL, and the name of a file below it."""
    return f"{str(root).rstrip('/')}/{file_name}"


def reduction_for(size: Size, resize: FrameResize) -> int:
    """Return the largest reduction (1, 2, 4 or 8) of a JPEG that resizing does not tell apart.

    That is one after which the picture still has to shrink, if anything, to the very same size:
    boxes are where they would be without it.
    """
    target = resize.target_size(size)
    for reduction in sorted(_REDUCED, reverse=True):
        height, width = (-(-side // reduction) for side in size)  # the decoder rounds up
        shrinks = height >= target[0] and width >= target[1]
        if shrinks and resize.target_size((height, width)) == target:
            return reduction
    return 1


def read_frame(
    path: str | Path, image_id: int, expected_size: Size, reduction: int = 1
) -> UInt8[np.ndarray, "height width 3"]:
    """Read a JPEG or PNG image as RGB.

    Args:
        path: A local path or an fsspec URL.
        image_id: Its id in the annotation file, for the text of errors.
        expected_size: Size of the image file according to the annotations.
        reduction: 2, 4 or 8 decodes a JPEG at that part of its size, which is faster than
            shrinking it afterwards. Other formats are read at their own size.

    Raises:
        FrameError: If the image is missing, truncated, of another format or of another size.
    """
    where = f"{path} (image id {image_id})"
    data = _read_bytes(str(path), where)
    is_jpeg = data.startswith(_JPEG_START)
    if not is_jpeg and not data.startswith(_PNG_START):
        msg = f"{where}: expected a JPEG or PNG image, found {_describe(data)}."
        raise FrameError(msg)
    is_reduced = is_jpeg and reduction > 1
    flags = _AS_STORED | (_REDUCED[reduction] if is_reduced else 0)
    frame = None
    if _is_complete(data, is_jpeg):
        frame = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if frame is None:
        msg = f"{where}: expected a whole image, found a truncated or damaged one of "
        raise FrameError(msg + f"{len(data)} bytes. Copy it again.")
    found_size = _jpeg_size(data) if is_reduced else frame.shape[:2]
    if found_size != tuple(expected_size):
        msg = (
            f"{where}: expected an image of {expected_size[0]} x {expected_size[1]} pixels (height "
            f"x width) as annotated, found {found_size[0]} x {found_size[1]}."
        )
        raise FrameError(msg)
    return frame


def _jpeg_size(data: bytes) -> Size:
    """Read the size in the header, which that of a reduced picture does not tell to the pixel."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as header:
        return header.height, header.width


def _read_bytes(path: str, where: str) -> bytes:
    try:
        if "://" not in path:
            return Path(path).read_bytes()
        with fsspec.open(path, "rb") as file:
            content: bytes = file.read()
            return content
    except FileNotFoundError as error:
        msg = f"{where}: expected an image, found no such file. Is the image root right?"
        raise FrameError(msg) from error
    except OSError as error:
        msg = f"{where}: expected a readable image, found {error}."
        raise FrameError(msg) from error


def _describe(data: bytes) -> str:
    return f"{len(data)} bytes starting with {data[:8]!r}" if data else "an empty file"


def _is_complete(data: bytes, is_jpeg: bool) -> bool:
    """Whether the end marker is there, which decoders may miss in silence.

    In a JPEG neither marker can occur in compressed data, but a preview inside the file has both:
    hence the end must come after the last scan. Anything may follow it.
    """
    if not is_jpeg:
        return _PNG_END in data
    return data.endswith(_JPEG_END) or data.rfind(_JPEG_END) > data.rfind(_JPEG_START_OF_SCAN)
