"""Scenes of the generated data set: textured objects that move over a moving background.

A class is a combination of a shape and a texture. Colours, sizes and motion have the same
distribution for every class, so only shape and texture reveal the class. The sizes of objects and
textures and the speed of motion, in pixels, do not depend on the size of the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SHAPES = ("disc", "triangle")
TEXTURES = ("striped", "checked", "dotted")
CLASS_NAMES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)

MIN_SHARE_IN_PICTURE = 0.25
MIN_SHARE_UNCOVERED = 0.25

SUPERSAMPLING = 4
_PERIOD = 11.0  # pixels: about four periods on an object; a blur of 4 pixels removes the pattern
_TRIANGLE_REACH = 1.25  # centre to corner in radii of the disc: both shapes have similar box sizes


@dataclass(frozen=True)
class SceneObject:
    """One object of a video, drawn as a sprite: a small picture that is warped into each frame.

    Args:
        label: Position of the object's class in ``CLASS_NAMES``.
        texture: Colours of the sprite, ``[s, s, 3]`` float32 RGB.
        silhouette: Opacity of the sprite, ``[s, s]`` float32 from 0 to 1.
        transforms: Affine transform from the sprite to each frame, ``[T, 2, 3]`` float64.
    """

    label: int
    texture: np.ndarray
    silhouette: np.ndarray
    transforms: np.ndarray

    def opacity(self, frame: int, size: int) -> np.ndarray:
        """Return the opacity of the object at each pixel of a frame, ``[size, size]`` float32."""
        return _warp(self.silhouette, self.transforms[frame], size)

    def area(self, frame: int) -> float:
        """Return the object's area in a frame, in square pixels, including parts outside it."""
        scale = abs(np.linalg.det(self.transforms[frame, :, :2]))
        return float(self.silhouette.sum() * scale)


@dataclass(frozen=True)
class ObjectBox:
    """The annotation of an object in a frame.

    Args:
        track_id: Identifies the object within its video.
        label: Position of the object's class in ``CLASS_NAMES``.
        bbox: ``(x, y, width, height)`` in whole pixels.
        area: Number of pixels of the object's silhouette inside the picture.
    """

    track_id: int
    label: int
    bbox: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True)
class Scene:
    """The content of a generated video, from which its frames are rendered.

    Args:
        size: Height and width of the frames in pixels.
        background: The background, ``[h, w, 3]`` float32 RGB, larger than a frame.
        camera: Where the top left corner of each frame is in the background, ``[T, 2]`` xy.
        objects: The objects from back to front; the track id of an object is its position here.
    """

    size: int
    background: np.ndarray
    camera: np.ndarray
    objects: tuple[SceneObject, ...]

    def picture(self, frame: int) -> np.ndarray:
        """Render a frame as ``[size, size, 3]`` uint8 RGB, before degradation."""
        shift = np.array([[1, 0, -self.camera[frame, 0]], [0, 1, -self.camera[frame, 1]]])
        picture = _warp(self.background, shift, self.size, cv2.BORDER_REFLECT_101)
        for item in self.objects:
            opacity = item.opacity(frame, self.size)[..., None]
            picture += opacity * (_warp(item.texture, item.transforms[frame], self.size) - picture)
        return picture.round().clip(0, 255).astype(np.uint8)

    def boxes(self, frame: int) -> list[ObjectBox]:
        """Return the annotations of a frame.

        A box is the tight rectangle around the part of the silhouette (opacity of at least one
        half) inside the picture, including parts that other objects cover. An object is left out if
        less than ``MIN_SHARE_IN_PICTURE`` of its area lies inside the picture, or if less than
        ``MIN_SHARE_UNCOVERED`` of its area inside the picture is not covered by other objects.
        Degradations do not change boxes.
        """
        masks = [item.opacity(frame, self.size) >= 0.5 for item in self.objects]
        covered = np.zeros((self.size, self.size), dtype=bool)
        boxes = []
        for track_id in reversed(range(len(masks))):
            item, mask = self.objects[track_id], masks[track_id]
            area = int(mask.sum())
            in_picture = area >= max(1.0, MIN_SHARE_IN_PICTURE * item.area(frame))
            if in_picture and (mask & ~covered).sum() >= MIN_SHARE_UNCOVERED * area:
                x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
                boxes.append(ObjectBox(track_id, item.label, (x, y, width, height), area))
            covered |= mask
        return boxes[::-1]


def draw_scene(rng: np.random.Generator, *, size: int, num_frames: int, num_objects: int) -> Scene:
    """Return a random scene with ``num_frames`` frames of ``size`` x ``size`` pixels."""
    time = np.arange(num_frames) - rng.uniform(0, num_frames)
    drift = rng.uniform(-1.5, 1.5, size=2)
    sway = rng.uniform(0, 2, size=2) * np.sin(0.5 * time[:, None] + rng.uniform(0, 6, size=2))
    camera = drift * time[:, None] + sway
    # Drawn without replacement, because independent draws would leave some classes rare.
    decks = [rng.permutation(len(CLASS_NAMES)) for _ in range(num_objects // len(CLASS_NAMES) + 1)]
    labels = np.concatenate(decks)[:num_objects].tolist()
    objects = tuple(_draw_object(rng, label, size, camera) for label in labels)
    background = draw_background(rng, 2 * size)
    return Scene(size, background, camera + size / 2, objects)


def _draw_object(
    rng: np.random.Generator, label: int, size: int, camera: np.ndarray
) -> SceneObject:
    texture, silhouette = _draw_sprite(rng, CLASS_NAMES[label], rng.uniform(29, 51))
    moment = int(rng.integers(len(camera)))  # when the object is at `place`
    time = np.arange(len(camera)) - moment
    place = rng.uniform(0, size, size=2)
    heading, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 3.0)
    velocity = speed * np.array([np.cos(heading), np.sin(heading)])
    centres = place + velocity * time[:, None] - (camera - camera[moment])
    angles = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.05, 0.05) * time
    scales = np.exp(rng.uniform(-0.01, 0.01) * time).clip(0.7, 1.4)
    middle = len(silhouette) / 2 - 0.5  # centre of the sprite; pixel centres are whole numbers
    transforms = [
        similarity(angle, scale, middle, centre)
        for angle, scale, centre in zip(angles, scales, centres, strict=True)
    ]
    return SceneObject(label, texture, silhouette, np.stack(transforms))


def _draw_sprite(
    rng: np.random.Generator, class_name: str, side: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the texture ``[s, s, 3]`` and the opacity ``[s, s]`` of an object of a class."""
    texture_name, shape = class_name.split(" ")
    pixels = int(np.ceil(_TRIANGLE_REACH * side)) + 4  # a transparent border
    axis = (np.arange(pixels * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - pixels / 2
    x, y = np.meshgrid(axis, axis)
    inside = _inside(shape, x, y, side / 2)
    phase = rng.uniform(0, _PERIOD, size=2)
    turn = rng.uniform(0, np.pi)
    u = x * np.cos(turn) + y * np.sin(turn) + phase[0]
    v = y * np.cos(turn) - x * np.sin(turn) + phase[1]
    coloured = _colour(rng, _pattern(texture_name, u, v))
    return shrink(coloured, pixels), shrink(inside.astype(np.float32), pixels)


def _inside(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    if shape == "disc":
        return np.asarray(x**2 + y**2 <= radius**2)
    directions = np.pi / 2 + np.arange(3) * 2 * np.pi / 3  # normals of the triangle's sides
    reach = radius * _TRIANGLE_REACH / 2
    sides = [x * np.cos(angle) + y * np.sin(angle) <= reach for angle in directions]
    return np.asarray(np.all(sides, axis=0))


def _pattern(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return which of the two tones of a texture each pixel has, ``[s, s]`` bool."""
    if texture == "dotted":
        cell_u, cell_v = (axis % _PERIOD - _PERIOD / 2 for axis in (u, v))
        return np.asarray(cell_u**2 + cell_v**2 < (0.32 * _PERIOD) ** 2)
    wave_u, wave_v = (np.sin(2 * np.pi * axis / _PERIOD) for axis in (u, v))
    return np.asarray((wave_u if texture == "striped" else wave_u * wave_v) > 0)


def _colour(rng: np.random.Generator, pattern: np.ndarray) -> np.ndarray:
    """Return a pattern ``[s, s]`` painted in two tones of a random colour, ``[s, s, 3]`` float32.

    The mean colour does not depend on the pattern and stands out from the grey background, so a
    blurred object can be detected but not classified.
    """
    tint = rng.permutation([rng.uniform(25, 55), rng.uniform(-55, -25), rng.uniform(-55, 55)])
    contrast = rng.choice([-1, 1]) * rng.uniform(100, 130)
    tones = rng.uniform(110, 140) + contrast * (pattern - pattern.mean())
    painted: np.ndarray = (tones[..., None] + tint).clip(0, 255).astype(np.float32)
    return painted


def draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a background ``[size, size, 3]``: noise with translucent patches and lines."""
    background = np.full((size, size, 3), rng.uniform(100, 140, size=3), dtype=np.float32)
    for cells, amplitude in ((4, 20), (12, 16), (40, 14), (120, 10)):
        grey = rng.normal(0, amplitude, (cells, cells, 1))
        noise = (grey + rng.normal(0, amplitude / 4, (cells, cells, 3))).astype(np.float32)
        background += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    for _ in range(24):
        background = _draw_clutter(rng, background)
    return background.clip(0, 255)


def _draw_clutter(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    layer = background.copy()
    size = len(background)
    start, end = rng.uniform(0, size, size=(2, 2)).round().astype(int).tolist()
    colour = (rng.uniform(40, 210) + rng.uniform(-20, 20, size=3)).tolist()
    if rng.random() < 0.5:
        axes = rng.integers(4, 30, size=2).tolist()
        cv2.ellipse(layer, start, axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
    else:
        cv2.line(layer, start, end, colour, int(rng.integers(1, 6)), cv2.LINE_AA)
    weight = rng.uniform(0.2, 0.6)
    return cv2.addWeighted(layer, weight, background, 1 - weight, 0)


def similarity(angle: float, scale: float, middle: float, centre: np.ndarray) -> np.ndarray:
    """Return a transform that rotates, scales, and maps ``(middle, middle)`` to ``centre``."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([linear, centre - linear @ [middle, middle]])


def shrink(image: np.ndarray, pixels: int) -> np.ndarray:
    """Reduce a supersampled drawing to ``[pixels, pixels, ...]``."""
    return cv2.resize(image, (pixels, pixels), interpolation=cv2.INTER_AREA)


def _warp(
    image: np.ndarray, transform: np.ndarray, size: int, border: int = cv2.BORDER_CONSTANT
) -> np.ndarray:
    return cv2.warpAffine(image, transform, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
