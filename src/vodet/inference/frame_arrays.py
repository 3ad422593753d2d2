"""Turns frames that Python code passes to a detector into arrays."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageMode, ImageOps
from torch import Tensor

from vodet.errors import ConfigError, FrameError

PythonFrames = np.ndarray | Tensor | Image.Image


def frames_as_arrays(frames: PythonFrames) -> np.ndarray:
    """Return uint8 RGB frames as one array ``[n, H, W, 3]``.

    Args:
        frames: An array or tensor in one of the shapes that `StreamingDetector.push` accepts, or a
            PIL image, which is converted to RGB and rotated by its EXIF orientation.

    Raises:
        ConfigError: If ``frames`` has another shape or type, or is empty.
        FrameError: If the file of a PIL image is damaged.
    """
    if isinstance(frames, Image.Image) and _has_8_bits(frames):
        return _as_array(frames)[None]
    if not _are_frames(frames):
        msg = (
            "Expected uint8 RGB frames, at least one: an array [H, W, 3] or [n, H, W, 3], a "
            "tensor [3, H, W] or [n, 3, H, W], or a PIL image with 8 bits per channel; found "
            f"{describe(frames)}."
        )
        raise ConfigError(msg)
    if isinstance(frames, Tensor):
        frames = frames.movedim(-3, -1).cpu().numpy()
    frames = np.ascontiguousarray(frames)  # torch refuses views such as bgr[..., ::-1]
    return frames if frames.ndim == 4 else frames[None]


def describe(value: object) -> str:
    """Return the type of a value for an error message, with shape and dtype or image mode."""
    found = f"a {type(value).__name__}"
    if isinstance(value, np.ndarray | Tensor):
        found += f" {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, Image.Image):
        found += f" of mode {value.mode}"
    return found


def _are_frames(frames: object) -> bool:
    if not isinstance(frames, np.ndarray | Tensor):  # such as the None of a camera without a frame
        return False
    channels = -3 if isinstance(frames, Tensor) else -1
    is_right = frames.ndim in (3, 4) and frames.shape[channels] == 3 and 0 not in frames.shape
    return is_right and "uint8" in str(frames.dtype)


def _has_8_bits(picture: Image.Image) -> bool:
    """Return whether a conversion to RGB keeps the values; Pillow clips 16-bit values to 255."""
    return ImageMode.getmode(picture.mode).typestr in ("|u1", "|b1") and 0 not in picture.size


def _as_array(picture: Image.Image) -> np.ndarray:
    try:  # Pillow reads the pixels of a file only now
        return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except Exception as error:  # each format raises different errors
        name = getattr(picture, "filename", "") or "A PIL image"
        msg = f"{name}: expected an image, found a file that cannot be read: {error}."
        raise FrameError(msg) from error
