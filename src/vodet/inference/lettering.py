"""Draws text of many scripts as masks, with the fonts that OpenCV and matplotlib bring.

OpenCV has Latin, Greek, Cyrillic, Chinese, Japanese and Korean letters, but writes every script
from left to right. DejaVu Sans, which matplotlib brings, has further letters and symbols, among
them Arabic, Hebrew, Armenian and Georgian. Pillow writes them from right to left where necessary,
if the library FriBiDi is installed.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from vodet.names import visible

Write = Callable[[str, float], np.ndarray]

_OPENCV_FONT = cv2.FONT_HERSHEY_SIMPLEX
_OPENCV_CAPITAL = 22  # height of a capital letter in pixels, at scale 1
_DEJAVU_CAPITAL = 0.729  # height of a capital letter, as a share of the font size
_ABOVE, _BELOW = 1.3, 0.5  # height of a mask above and below the baseline, in capital letters
_NO_LETTER = "\U0010fffd"  # drawn like every character that a font lacks
_EMOJI_JOINERS = "\u200d\ufe0f"


def readable(name: str, label: int) -> str:
    """Return a class name without characters that the fonts lack.

    Emoji and other symbols are replaced by their Unicode names. A name with letters that the fonts
    lack is replaced by the label: ``class 3``.
    """
    shown = unicodedata.normalize("NFC", visible(name))
    lacking = {letter for letter in shown if _writer(letter) is None}
    if not lacking:
        return shown
    for letter in lacking:
        is_symbol = unicodedata.category(letter) in ("So", "Sk")
        word = unicodedata.name(letter, "").lower() if is_symbol else ""
        if not word and letter not in _EMOJI_JOINERS:
            return f"class {label}"
        shown = shown.replace(letter, f" {word} ")
    return " ".join(shown.translate(dict.fromkeys(map(ord, _EMOJI_JOINERS), " ")).split())


@lru_cache(maxsize=1024)
def text_mask(text: str, capital: float) -> np.ndarray:
    """Draw a line of text whose characters the fonts have.

    Args:
        text: The text.
        capital: Height of a capital letter in pixels.

    Returns:
        How much the text covers each pixel, from 0 to 255, ``[h, w]`` uint8. The height depends
        only on ``capital``.
    """
    if write := _writer(text):
        return write(text, capital)
    runs = [(_writer(letter) or _opencv, letter) for letter in text]
    return np.hstack(
        [
            write("".join(letter for _, letter in run), capital)
            for write, run in groupby(runs, lambda pair: pair[0])
        ]
    )


def _writer(text: str) -> Write | None:
    """Return the function that can draw a text, or None if no font has all of its characters."""
    is_from_right = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in text)
    if not is_from_right and all(_has(_opencv, letter) for letter in text):
        return _opencv
    return _dejavu if all(_has(_dejavu, letter) for letter in text) else None


@cache
def _has(write: Write, letter: str) -> bool:
    return letter == "?" or not np.array_equal(write(letter, 22.0), write(_NO_LETTER, 22.0))


def _opencv(text: str, capital: float) -> np.ndarray:
    scale, weight = capital / _OPENCV_CAPITAL, max(1, round(capital / 10))
    (width, _), _ = cv2.getTextSize(text, _OPENCV_FONT, scale, weight)
    above, height = _lines(capital)
    mask = np.zeros((height, width + 2), np.uint8)  # letters reach 1 pixel beyond the width
    return cv2.putText(mask, text, (1, above), _OPENCV_FONT, scale, 255, weight, cv2.LINE_AA)


def _dejavu(text: str, capital: float) -> np.ndarray:
    font = _dejavu_font(capital / _DEJAVU_CAPITAL)
    above, height = _lines(capital)
    mask = Image.new("L", (max(1, math.ceil(font.getlength(text))), height))
    ImageDraw.Draw(mask).text((0, above), text, fill=255, font=font, anchor="ls")
    return np.asarray(mask)


@cache
def _dejavu_font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _lines(capital: float) -> tuple[int, int]:
    """Return the height of a mask above its baseline, and its whole height, in pixels."""
    above = math.ceil(_ABOVE * capital)
    return above, above + math.ceil(_BELOW * capital)
