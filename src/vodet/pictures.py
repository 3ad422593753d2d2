"""Headers of JPEG and PNG files, which are read before decoding, and EXIF orientations."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vodet.structures import Size

MAX_PIXELS = 2**28  # of one picture: 0.8 GB decoded; 16K video has half of that

JPEG_START = b"\xff\xd8"
PNG_START = b"\x89PNG\r\n\x1a\n"
_EXIF_START = b"Exif\0\0"
_ORIENTATION = 0x0112
_APP1 = 0xE1
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEGMENT = struct.Struct(">BBH")  # of a JPEG: 0xFF, marker, length
_CHUNK = struct.Struct(">I4s")  # of a PNG: length, kind


class PictureHeader(NamedTuple):
    """The header of a picture.

    Args:
        stored_size: ``(height, width)`` of the pixels in the file.
        orientation: EXIF orientation, 1 to 8: how the pixels are turned for display; 1 is upright.
    """

    stored_size: Size
    orientation: int = 1

    @property
    def upright_size(self) -> Size:
        """``(height, width)`` as displayed."""
        height, width = self.stored_size
        return (width, height) if self.orientation >= 5 else (height, width)


def read_header(data: bytes) -> PictureHeader | None:
    """Read the header of a JPEG or PNG; None if it is another format or truncated."""
    if data.startswith(JPEG_START):
        return _read_jpeg(data)
    return _read_png(data) if data.startswith(PNG_START) else None


def _read_jpeg(data: bytes) -> PictureHeader | None:
    position, orientation = len(JPEG_START), 1
    while 0 <= position <= len(data) - 9:
        start, marker, length = _SEGMENT.unpack_from(data, position)
        if start != 0xFF:  # decoders skip what is between segments
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


def turn_upright(
    pixels: UInt8[np.ndarray, "h w 3"], orientation: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Turn and mirror a picture as its EXIF orientation asks."""
    if orientation == 1:
        return pixels
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(turned[::down, ::right])
