"""Reads pictures: size and EXIF orientation from the header of the file, and the pixels."""

from __future__ import annotations

import io
import struct
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from vodet.structures import Size

MAX_PIXELS = 2**28  # of one picture, 0.8 GB when decoded; a frame of 16K video has half as many

JPEG_START = b"\xff\xd8"
PNG_START = b"\x89PNG\r\n\x1a\n"
# Decodes to 8 bits without an alpha channel. `turn_upright` applies the EXIF orientation, since
# OpenCV does not do it for all formats. The flags of the reduced scales are OpenCV's grayscale
# flags: its colour flags have one more bit, which asks for BGR and cannot be combined with RGB.
_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
REDUCTIONS = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_EXIF_START = b"Exif\0\0"
_ORIENTATION = 0x0112
_APP1 = 0xE1
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEGMENT = struct.Struct(">BBH")  # start of a JPEG segment: 0xFF, marker, length
_CHUNK = struct.Struct(">I4s")  # start of a PNG chunk: length, type


class PictureHeader(NamedTuple):
    """The size and the EXIF orientation of a picture, as read from the header of its file.

    Args:
        stored_size: ``(height, width)`` of the pixels in the file.
        orientation: EXIF orientation, 1 to 8, which says how to rotate and mirror the pixels for
            display; 1 leaves them unchanged.
    """

    stored_size: Size
    orientation: int = 1

    @property
    def upright_size(self) -> Size:
        """``(height, width)`` after rotation by the EXIF orientation."""
        height, width = self.stored_size
        return (width, height) if self.orientation >= 5 else (height, width)


def read_header(data: bytes) -> PictureHeader | None:
    """Read the header of a JPEG or PNG file.

    Args:
        data: Content of the file.

    Returns:
        The header, or None if the file has another format, its header is incomplete, or it is a PNG
        without an end marker.
    """
    if data.startswith(JPEG_START):
        return _read_jpeg(data)
    return _read_png(data) if data.startswith(PNG_START) else None


def read_size(data: bytes) -> Size | None:
    """Return the stored ``(height, width)`` of a picture in any format that Pillow reads.

    Only the header is read, not the pixels. The result is None if the header cannot be read.

    Args:
        data: Content of the file.

    Raises:
        ValueError: If the picture is neither JPEG nor PNG and has more than 179 million pixels,
            which Pillow rejects.
    """
    if header := read_header(data):
        return header.stored_size
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return picture.height, picture.width
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    except Exception:  # each format raises different errors
        return None


def count_pictures(data: bytes) -> int:
    """Return the number of pictures in a file, such as pages of a TIFF or frames of a GIF.

    A JPEG counts as one picture, even if a depth map or a preview follows it in the file. A file
    that cannot be read also counts as one.
    """
    is_still_png = data.startswith(PNG_START) and b"acTL" not in data[: data.find(b"IDAT")]
    if data.startswith(JPEG_START) or is_still_png:
        return 1
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return int(getattr(picture, "n_frames", 1))
    except Exception:  # decoding the file reports what is wrong
        return 1


def _read_jpeg(data: bytes) -> PictureHeader | None:
    position, orientation = len(JPEG_START), 1
    while 0 <= position <= len(data) - 9:
        start, marker, length = _SEGMENT.unpack_from(data, position)
        if start != 0xFF:  # decoders skip bytes between segments
            position = data.find(b"\xff", position)
        elif marker in (0x00, 0xFF):
            position += 1
        elif marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return PictureHeader((height, width), orientation)
        else:
            if marker == _APP1 and data.startswith(_EXIF_START, position + 4):
                orientation = _read_orientation(data[position + 4 : position + 2 + length])
            position += 2 + length
    return None


def _read_png(data: bytes) -> PictureHeader | None:
    position, orientation = len(PNG_START), 1
    while position <= len(data) - 12:
        length, kind = _CHUNK.unpack_from(data, position)
        if kind == b"eXIf":
            exif = data[position + 8 : position + 8 + length]
            orientation = _read_orientation(_EXIF_START + exif)
        elif kind == b"IEND" and position > 16:
            width, height = struct.unpack_from(">II", data, 16)
            return PictureHeader((height, width), orientation)
        position += 12 + length
    return None


def _read_orientation(exif: bytes) -> int:
    values = Image.Exif()
    try:
        values.load(exif)
        orientation: Any = values.get(_ORIENTATION)
    except Exception:  # viewers show a picture with broken EXIF as it is stored
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def decode_picture(
    data: bytes, size: Size, reduction: int = 1
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode a JPEG or PNG to RGB, without applying its EXIF orientation.

    A JPEG is decoded by simplejpeg, because OpenCV hides the warnings of its decoder, so damage in
    the middle of a file would go unnoticed. Both use libjpeg-turbo and return the same pixels.

    Args:
        data: Content of the file.
        size: ``(height, width)`` from the header, without EXIF orientation.
        reduction: 2, 4 or 8 decodes a JPEG at 1/2, 1/4 or 1/8 of its size; 1 decodes it at full
            size. A PNG is always decoded at full size.

    Raises:
        ValueError: If the file is damaged.
    """
    flags = _AS_STORED
    if data.startswith(JPEG_START):
        least = {"min_height": -(-size[0] // reduction), "min_width": -(-size[1] // reduction)}
        if simplejpeg.decode_jpeg_header(data)[2] != "CMYK":
            return np.asarray(simplejpeg.decode_jpeg(data, "RGB", **least))
        simplejpeg.decode_jpeg(data, "CMYK", **least)  # only checks for damage
        flags |= REDUCTIONS[reduction]
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(str(error)) from error
    if pixels is None:
        msg = f"its {len(data)} bytes cannot be decoded"
        raise ValueError(msg)
    return pixels


def turn_upright(
    pixels: UInt8[np.ndarray, "h w 3"], orientation: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Rotate and mirror a picture as its EXIF orientation (1 to 8) says, for display."""
    if orientation == 1:
        return pixels
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(turned[::down, ::right])
