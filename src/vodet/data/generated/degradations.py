"""Degradations that hide textures and borders in single frames of the generated data set."""

from __future__ import annotations

import cv2
import numpy as np

BLURS = ("motion_blur", "defocus")
DISTURBANCES = ("noise", "darkness", "occluders")


def degrade(picture: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple[str, str]]:
    """Blur a picture, then make it noisy, dark or partly hidden.

    A network can often tell the textures apart after the blur or the disturbance alone, but seldom
    after both.

    Args:
        picture: ``[H, W, 3]`` uint8 RGB.
        rng: Random generator that chooses the degradations and their strength.

    Returns:
        The degraded picture, and the names of its blur and its disturbance, from ``BLURS`` and
        ``DISTURBANCES``.
    """
    blur, disturbance = str(rng.choice(BLURS)), str(rng.choice(DISTURBANCES))
    blurred = _FUNCTIONS[blur](picture.astype(np.float32), rng)
    disturbed = _FUNCTIONS[disturbance](blurred, rng)
    return disturbed.round().clip(0, 255).astype(np.uint8), (blur, disturbance)


def _motion_blur(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur a picture along a random line, like a shaken camera, then in all directions.

    Without the second blur, stripes along the line would remain visible.
    """
    length, angle = rng.uniform(14, 22), rng.uniform(0, np.pi)
    side = 2 * int(length / 2) + 3
    kernel = np.zeros((side, side), dtype=np.float32)
    reach = length / 2 * np.array([np.cos(angle), np.sin(angle)])
    start, end = side // 2 - reach, side // 2 + reach
    sixteenths = [(point * 16).round().astype(int).tolist() for point in (start, end)]
    cv2.line(kernel, sixteenths[0], sixteenths[1], 1.0, 1, cv2.LINE_AA, shift=4)
    smeared = cv2.filter2D(picture, -1, kernel / kernel.sum())
    return cv2.GaussianBlur(smeared, (0, 0), 3.6)


def _defocus(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(4.0, 6.0))


def _noise(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.add(picture, _grain(picture.shape, rng.uniform(22, 34), rng))


def _darkness(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reduce the brightness to about a quarter and add noise, like a camera in the dark."""
    grain = np.abs(_grain(picture.shape, 12.0, rng))
    return cv2.addWeighted(picture, rng.uniform(0.22, 0.34), grain, 1, 0)


def _occluders(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hide parts of a picture behind 4 to 7 large, plain ellipses with soft edges."""
    picture, size = picture.copy(), max(picture.shape[:2])
    for _ in range(rng.integers(4, 8)):
        centre = (rng.uniform(0, 1, size=2) * picture.shape[1::-1]).astype(int).tolist()
        axes = (rng.uniform(0.06, 0.22, size=2) * size).astype(int).tolist()
        colour = (rng.uniform(20, 235) + rng.uniform(-20, 20, size=3)).tolist()
        cv2.ellipse(picture, centre, axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
    softened = cv2.GaussianBlur(picture, (0, 0), 1.0)
    return cv2.add(softened, _grain(picture.shape, 12.0, rng))


def _grain(shape: tuple[int, ...], deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Return noise with a grain of 3 pixels; a few convolutions would average out finer noise."""
    height, width, channels = shape
    cells = (-(-height // 3), -(-width // 3), channels)
    coarse = rng.normal(0, deviation, cells).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


_FUNCTIONS = {
    "motion_blur": _motion_blur,
    "defocus": _defocus,
    "noise": _noise,
    "darkness": _darkness,
    "occluders": _occluders,
}
