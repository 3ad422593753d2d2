"""Draws detections on a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vodet.names import visible

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
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_HEIGHT = 22  # pixels of a capital letter at scale 1


def class_color(label: int) -> Color:
    """Return the RGB colour of a class, the same in every frame and video."""
    shade = _SHADES[label // len(_COLORS) % len(_SHADES)]
    red, green, blue = (round(shade * value) for value in _COLORS[label % len(_COLORS)])
    return red, green, blue


def draw_detections(
    frame: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    scores: np.ndarray | None = None,
    track_ids: np.ndarray | None = None,
) -> np.ndarray:
    """Return a copy of a frame with boxes and their classes, track ids and scores drawn on it.

    The widths of lines and the sizes of letters are in proportion to the frame size.

    Args:
        frame: ``[H, W, 3]`` uint8 RGB; it is not changed.
        boxes: xyxy in pixels of the frame, ``[n, 4]``, best first: the first box is drawn on top.
        labels: The label of each box, ``[n]``.
        class_names: The class name of each label.
        scores: The score of each box, ``[n]``; None to draw no scores.
        track_ids: The track id of each box, ``[n]``, -1 if unknown; None to draw no track ids.
    """
    drawing = np.ascontiguousarray(frame).copy()
    style = _Style.of_size(*frame.shape[:2])
    for row in reversed(range(len(boxes))):
        _draw_box(drawing, boxes[row], class_color(int(labels[row])), style)
    for row in reversed(range(len(boxes))):
        details = ""
        if track_ids is not None and track_ids[row] >= 0:
            details += f" #{int(track_ids[row])}"
        if scores is not None:
            details += f" {scores[row]:.2f}"
        text = style.fitted(visible(class_names[int(labels[row])]), details, frame.shape[1])
        _draw_text(drawing, boxes[row], text, class_color(int(labels[row])), style)
    return drawing


@dataclass(frozen=True)
class _Style:
    line: int
    letter: float  # height of a capital letter in pixels

    @staticmethod
    def of_size(height: int, width: int) -> _Style:
        side = min(height, width)
        return _Style(line=max(1, round(side / 240)), letter=5 + side / 75)

    @property
    def scale(self) -> float:
        return self.letter / _FONT_HEIGHT

    @property
    def weight(self) -> int:
        return max(1, round(self.letter / 10))

    @property
    def pad(self) -> int:
        return max(2, round(self.letter / 4))

    def text_size(self, text: str) -> tuple[int, int, int]:
        """Return the width of a text and its heights above and below the baseline."""
        (width, height), below = cv2.getTextSize(text, _FONT, self.scale, self.weight)
        return width, height, below

    def fitted(self, name: str, details: str, width: int) -> str:
        """Return ``name + details``, with a shorter name if the text is wider than the frame.

        Args:
            name: The class name.
            details: The track id and the score, which are never shortened.
            width: Width of the frame in pixels.
        """
        text, available = name + details, width - 2 * self.pad
        while len(name) > 1 and (found := self.text_size(text)[0]) > available:
            name = name[: max(1, min(len(name) - 1, len(name) * available // found))]
            text = f"{name}..{details}"
        return text


def _draw_box(drawing: np.ndarray, box: np.ndarray, color: Color, style: _Style) -> None:
    left, top, right, bottom = (round(float(edge)) for edge in box)
    cv2.rectangle(drawing, (left, top), (right - 1, bottom - 1), color, style.line)


def _draw_text(
    drawing: np.ndarray, box: np.ndarray, text: str, color: Color, style: _Style
) -> None:
    """Write a text on a filled rectangle above the box, or in the box if it is near the top."""
    height, width = drawing.shape[:2]
    text_width, text_height, below = style.text_size(text)
    plate = (text_width + 2 * style.pad, text_height + below // 2 + 2 * style.pad)
    left, edge = round(float(box[0])), round(float(box[1]))
    top = edge - plate[1] if edge >= plate[1] else edge
    left = max(0, min(left, width - plate[0]))
    top = max(0, min(top, height - plate[1]))
    cv2.rectangle(drawing, (left, top), (left + plate[0], top + plate[1]), color, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 110 else (255, 255, 255)
    origin = (left + style.pad, top + style.pad + text_height)
    cv2.putText(drawing, text, origin, _FONT, style.scale, ink, style.weight, cv2.LINE_AA)
