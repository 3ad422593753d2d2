"""Draws detections and annotated objects on a frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import cv2
import numpy as np

from vodet.inference.frame_arrays import PythonFrames, frames_as_arrays
from vodet.inference.lettering import readable, text_mask

Color = tuple[int, int, int]

# Okabe and Ito, Color Universal Design (2008), without black: distinct for any colour vision.
_COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
_SHADES = (1.0, 0.65, 0.4)  # further classes get darker shades of the same hues


def class_color(label: int) -> Color:
    """Return the RGB colour of a class, the same in every frame and video."""
    shade = _SHADES[label // len(_COLORS) % len(_SHADES)]
    red, green, blue = (round(shade * value) for value in _COLORS[label % len(_COLORS)])
    return red, green, blue


def draw(
    image: PythonFrames, detections: Any, class_names: Sequence[str] | None = None
) -> np.ndarray:
    """Return a copy of an image with boxes drawn on it, and the class, track id and score of each.

    The widths of lines and the sizes of letters are in proportion to the image size. The texts do
    not leave the image, and cover each other only where there is no other place.

    Args:
        image: uint8 RGB array ``[H, W, 3]``, tensor ``[3, H, W]``, or PIL image; it is not changed.
        detections: What a stream or `VideoDetector.predict` returns for a frame; or detections or a
            target: a mapping with ``boxes`` (xyxy in pixels, ``[n, 4]``) and ``labels`` ``[n]``,
            and perhaps ``scores`` and ``track_ids`` (-1 if unknown), all arrays or tensors. The
            first box is drawn on top.
        class_names: The class name of each label; by default, the labels are drawn as numbers.

    Returns:
        uint8 RGB ``[H, W, 3]``.

    Raises:
        ConfigError: If ``image`` is not an image.

    Example:
        ::

            for result in stream.push(frame):
                picture = vodet.draw(frame, result, detector.class_names)
    """
    names = class_names or getattr(detections, "class_names", None)
    found = {key: _array(value) for key, value in _columns(detections).items()}
    drawing: np.ndarray = frames_as_arrays(image)[0].copy()
    style = _Style.of_size(*drawing.shape[:2])
    boxes, labels = found["boxes"].reshape(-1, 4), found["labels"]
    for box, label in zip(boxes[::-1], labels[::-1], strict=True):
        _draw_box(drawing, box, class_color(int(label)), style)
    plates: list[_Plate] = []
    for row, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        name = str(label) if names is None else readable(names[label], int(label))
        pixels = style.plate(name, _details(found, row), class_color(int(label)), drawing.shape[1])
        plates.append(_placed(pixels, box, drawing.shape[:2], plates))
    for plate in reversed(plates):
        plate.paste(drawing)
    return drawing


def _columns(detections: Any) -> Mapping[str, Any]:
    columns: Mapping[str, Any] = getattr(detections, "detections", detections)
    return columns


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values)


def _details(found: Mapping[str, np.ndarray], row: int) -> str:
    details = ""
    if "track_ids" in found and found["track_ids"][row] >= 0:
        details += f" #{int(found['track_ids'][row])}"
    if "scores" in found:
        details += f" {found['scores'][row]:.2f}"
    return details


def _draw_box(drawing: np.ndarray, box: np.ndarray, color: Color, style: _Style) -> None:
    left, top, right, bottom = (round(float(edge)) for edge in box)
    cv2.rectangle(drawing, (left, top), (right - 1, bottom - 1), color, style.line)


@dataclass(frozen=True)
class _Style:
    line: int
    letter: float  # height of a capital letter in pixels

    @staticmethod
    def of_size(height: int, width: int) -> _Style:
        side = min(height, width)
        return _Style(line=max(1, round(side / 240)), letter=5 + side / 75)

    def plate(self, name: str, details: str, color: Color, width: int) -> np.ndarray:
        """Return a text on a filled rectangle, RGB; at most as wide as a frame of this width.

        Args:
            name: The class name, which is shortened if the text is wider than the frame.
            details: The track id and the score, which are never shortened.
            color: Colour of the rectangle.
            width: Width of the frame in pixels.
        """
        pad = max(2, round(self.letter / 4))
        end = text_mask(details, self.letter)
        mask = np.hstack([self._fitted(name, width - end.shape[1] - 2 * pad), end])
        share = np.pad(mask, ((0, 0), (pad, pad)))[..., None] / 255
        ink = 0 if np.dot(color, (0.299, 0.587, 0.114)) > 110 else 255
        return np.rint(np.array(color) * (1 - share) + ink * share).astype(np.uint8)

    def _fitted(self, name: str, width: int) -> np.ndarray:
        mask = text_mask(name, self.letter)
        while len(name) > 1 and mask.shape[1] > width:
            name = name[: max(1, min(len(name) - 1, len(name) * width // mask.shape[1]))]
            mask = text_mask(f"{name}..", self.letter)
        return mask


class _Plate(NamedTuple):
    pixels: np.ndarray
    left: int
    top: int

    def covered(self, other: _Plate) -> int:
        """Return the number of pixels that two plates have in common."""
        (height, width), (other_height, other_width) = self.pixels.shape[:2], other.pixels.shape[:2]
        rows = min(self.top + height, other.top + other_height) - max(self.top, other.top)
        columns = min(self.left + width, other.left + other_width) - max(self.left, other.left)
        return int(max(rows, 0) * max(columns, 0))

    def paste(self, drawing: np.ndarray) -> None:
        place = drawing[self.top :, self.left :][: self.pixels.shape[0], : self.pixels.shape[1]]
        place[:] = self.pixels[: place.shape[0], : place.shape[1]]


def _placed(
    pixels: np.ndarray, box: np.ndarray, size: tuple[int, ...], others: Sequence[_Plate]
) -> _Plate:
    """Return a plate at the first of its places where it covers no other plate.

    If every place is taken, it is where it covers the fewest pixels of the others.

    Args:
        pixels: The plate.
        box: The box that the plate describes.
        size: ``(height, width)`` of the frame.
        others: The plates that have a place.
    """
    plates = [_Plate(pixels, left, top) for left, top in _places(pixels, box, size)]
    return min(plates, key=lambda plate: sum(plate.covered(other) for other in others))


def _places(
    pixels: np.ndarray, box: np.ndarray, size: tuple[int, ...]
) -> Iterator[tuple[int, int]]:
    """Yield the left and top edges of a plate inside the frame, the preferred place first."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = (round(float(edge)) for edge in box)
    tops = [top - height, top, bottom, bottom - height]  # above, in, below, and in the box
    for y, x in product(tops if top >= height else tops[1:], (left, right - width)):
        yield max(0, min(x, size[1] - width)), max(0, min(y, size[0] - height))
