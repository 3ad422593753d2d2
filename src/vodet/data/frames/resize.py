"""Ways to resize frames before a detector sees them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from vodet.errors import ConfigError
from vodet.stages import FrameResize
from vodet.structures import Size


def resize_frame(
    frame: UInt8[np.ndarray, "h w 3"], size: Size
) -> UInt8[np.ndarray, "height width 3"]:
    """Resize a frame to ``size``, which is ``(height, width)``.

    Sides that shrink use area averaging; sides that grow use bilinear interpolation.
    """
    height, width = min(size[0], frame.shape[0]), min(size[1], frame.shape[1])
    if (height, width) != frame.shape[:2]:
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    if size != frame.shape[:2]:
        frame = cv2.resize(frame, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return frame


def _scaled(size: Size, scale: float) -> Size:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@dataclass(frozen=True)
class OriginalSize(FrameResize):
    """Leaves frames at their original size."""

    def target_size(self, original_size: Size) -> Size:
        """Return ``original_size`` unchanged."""
        return original_size

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Return ``frame`` unchanged."""
        return frame

    def scaled(self, factor: float) -> Rescale:
        """Return a `Rescale` by ``factor``."""
        return Rescale(factor)


@dataclass(frozen=True)
class Rescale(FrameResize):
    """Multiplies the height and width of frames by a factor.

    Args:
        factor: Positive factor; a factor above 1 enlarges frames.

    Raises:
        ConfigError: If the factor is not positive.
    """

    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            msg = f"Rescale needs a positive, finite factor, found {self}."
            raise ConfigError(msg)

    def target_size(self, original_size: Size) -> Size:
        """Return ``(height, width)`` after resizing."""
        return _scaled(original_size, self.factor)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Resize a frame ``[H, W, 3]`` uint8."""
        return resize_frame(frame, self.target_size((frame.shape[0], frame.shape[1])))

    def scaled(self, factor: float) -> Rescale:
        """Return a `Rescale` by ``self.factor * factor``."""
        return Rescale(self.factor * factor)


@dataclass(frozen=True)
class Resize(FrameResize):
    """Resizes frames so that the shorter side has a given length; the aspect ratio is kept.

    If the longer side would exceed its limit, the frame is resized to this limit instead.

    Args:
        short_side: Length of the shorter side in pixels.
        long_side: Maximum length of the longer side in pixels; None for no limit.

    Raises:
        ConfigError: If ``short_side`` is not positive or ``long_side`` is less than ``short_side``.
    """

    short_side: int
    long_side: int | None = None

    def __post_init__(self) -> None:
        if self.short_side < 1 or (self.long_side or self.short_side) < self.short_side:
            msg = f"Resize needs 1 <= short_side <= long_side, found {self}."
            raise ConfigError(msg)

    def target_size(self, original_size: Size) -> Size:
        """Return ``(height, width)`` after resizing; the aspect ratio is kept."""
        scale = self.short_side / min(original_size)
        if self.long_side is not None:
            scale = min(scale, self.long_side / max(original_size))
        return _scaled(original_size, scale)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Resize a frame ``[H, W, 3]`` uint8."""
        return resize_frame(frame, self.target_size((frame.shape[0], frame.shape[1])))

    def scaled(self, factor: float) -> Resize:
        """Return a `Resize` with ``short_side`` and ``long_side`` multiplied by ``factor``."""
        long_side = self.long_side and round(self.long_side * factor)
        return Resize(round(self.short_side * factor), long_side)


@dataclass(frozen=True)
class _FixedSize(FrameResize):
    """Base class: all resized frames have one height and width."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            msg = f"{type(self).__name__} needs a positive height and width, found {self}."
            raise ConfigError(msg)


@dataclass(frozen=True)
class Stretch(_FixedSize):
    """Resizes all frames to one height and width without keeping their aspect ratios.

    Some DETR-type detectors are trained like this.

    Args:
        height: Height of the resized frames in pixels.
        width: Width of the resized frames in pixels.

    Raises:
        ConfigError: If a side is not positive.
    """

    def target_size(self, original_size: Size) -> Size:
        """Return ``(self.height, self.width)``, which does not depend on the original size."""
        return self.height, self.width

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Resize a frame ``[H, W, 3]`` uint8."""
        return resize_frame(frame, (self.height, self.width))

    def scaled(self, factor: float) -> Stretch:
        """Return a `Stretch` with ``height`` and ``width`` multiplied by ``factor``."""
        return Stretch(round(self.height * factor), round(self.width * factor))


@dataclass(frozen=True)
class Letterbox(_FixedSize):
    """Scales frames to fit into one height and width, and pads them with black.

    The aspect ratio is kept; the padding is at the right and bottom.

    Args:
        height: Height of the padded frames in pixels.
        width: Width of the padded frames in pixels.

    Raises:
        ConfigError: If a side is not positive.
    """

    def target_size(self, original_size: Size) -> Size:
        """Return ``(height, width)`` of the scaled frame, without the padding."""
        height, width = original_size
        return _scaled(original_size, min(self.height / height, self.width / width))

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Scale and pad a frame ``[H, W, 3]`` uint8."""
        size = self.target_size((frame.shape[0], frame.shape[1]))
        result = np.zeros((self.height, self.width, 3), np.uint8)
        result[: size[0], : size[1]] = resize_frame(frame, size)
        return result

    def scaled(self, factor: float) -> Letterbox:
        """Return a `Letterbox` with ``height`` and ``width`` multiplied by ``factor``."""
        return Letterbox(round(self.height * factor), round(self.width * factor))
