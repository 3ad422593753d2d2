"""Resizing of frames to the size at which a detector sees them."""

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
    """Resize a frame, by area averaging to shrink a side and bilinearly to enlarge one."""
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
    """Leaves frames as they are."""

    def target_size(self, original_size: Size) -> Size:
        """Return the same size."""
        return original_size

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Return the same frame."""
        return frame

    def scaled(self, factor: float) -> Rescale:
        """Return a resize of both sides by ``factor``."""
        return Rescale(factor)


@dataclass(frozen=True)
class Rescale(FrameResize):
    """Multiplies both sides by a factor.

    Args:
        factor: Factor of both sides; above 1, it enlarges frames.

    Raises:
        ConfigError: If the factor is not positive.
    """

    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            msg = f"Rescaling needs a positive factor, found {self}."
            raise ConfigError(msg)

    def target_size(self, original_size: Size) -> Size:
        """Return the size after resizing."""
        return _scaled(original_size, self.factor)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Resize ``[H, W, 3]`` uint8."""
        return resize_frame(frame, self.target_size((frame.shape[0], frame.shape[1])))

    def scaled(self, factor: float) -> Rescale:
        """Return a resize by the product of both factors."""
        return Rescale(self.factor * factor)


@dataclass(frozen=True)
class Resize(FrameResize):
    """Resizes the short side to a length, or to less if the long side would exceed its limit.

    Args:
        short_side: Pixels of the shorter side.
        long_side: Maximum number of pixels of the longer side; None for no limit.

    Raises:
        ConfigError: If ``short_side`` is not positive or ``long_side`` is less than ``short_side``.
    """

    short_side: int
    long_side: int | None = None

    def __post_init__(self) -> None:
        if self.short_side < 1 or (self.long_side or self.short_side) < self.short_side:
            msg = f"Resizing needs 1 <= short_side <= long_side, found {self}."
            raise ConfigError(msg)

    def target_size(self, original_size: Size) -> Size:
        """Return the size after resizing; the aspect ratio is kept."""
        scale = self.short_side / min(original_size)
        if self.long_side is not None:
            scale = min(scale, self.long_side / max(original_size))
        return _scaled(original_size, scale)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Resize ``[H, W, 3]`` uint8."""
        return resize_frame(frame, self.target_size((frame.shape[0], frame.shape[1])))

    def scaled(self, factor: float) -> Resize:
        """Return a resize with both lengths multiplied by ``factor``."""
        long_side = self.long_side and round(self.long_side * factor)
        return Resize(round(self.short_side * factor), long_side)


@dataclass(frozen=True)
class Stretch(FrameResize):
    """Resizes frames to one shape, whatever their aspect ratio, as detectors of DETR type do.

    Args:
        height: Height of every result in pixels.
        width: Width of every result in pixels.

    Raises:
        ConfigError: If a side is not positive.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            msg = f"Stretching needs a positive height and width, found {self}."
            raise ConfigError(msg)

    def target_size(self, original_size: Size) -> Size:
        """Return the size after resizing."""
        return self.height, self.width

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Resize ``[H, W, 3]`` uint8."""
        return resize_frame(frame, (self.height, self.width))

    def scaled(self, factor: float) -> Stretch:
        """Return a stretch to both sides multiplied by ``factor``."""
        return Stretch(round(self.height * factor), round(self.width * factor))


@dataclass(frozen=True)
class Letterbox(FrameResize):
    """Scales frames to fit one shape and pads them with black at the right and bottom.

    Args:
        height: Height of every result in pixels, including padding.
        width: Width of every result in pixels, including padding.

    Raises:
        ConfigError: If a side is not positive.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            msg = f"A letterbox needs a positive height and width, found {self}."
            raise ConfigError(msg)

    def target_size(self, original_size: Size) -> Size:
        """Return the size in the letterbox without padding; the aspect ratio is kept."""
        height, width = original_size
        return _scaled(original_size, min(self.height / height, self.width / width))

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Resize and pad ``[H, W, 3]`` uint8."""
        size = self.target_size((frame.shape[0], frame.shape[1]))
        result = np.zeros((self.height, self.width, 3), np.uint8)
        result[: size[0], : size[1]] = resize_frame(frame, size)
        return result

    def scaled(self, factor: float) -> Letterbox:
        """Return a letterbox with both sides multiplied by ``factor``."""
        return Letterbox(round(self.height * factor), round(self.width * factor))
