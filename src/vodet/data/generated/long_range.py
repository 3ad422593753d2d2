"""The long-range set: only a memory of the first frames tells the classes of the later ones.

In the first frames of a video, every object shows the emblem of its class. Afterwards the emblem is
covered: all classes look the same, and only the tint, size and motion of an object tell that it is
still the same individual. Tints, sizes and motion do not depend on the class, and the classes of a
video are independent draws with equal probability. A viewer of the whole video can name the class
of every object in every frame, with earlier frames alone; in a window without a clear frame, the
class is a guess.

So a detector with perfect boxes but without memory gives each covered object every class with the
same score. With the default settings, this limits it to a COCO AP50 of 48 if it sees single frames,
and of 54 if it sees the three previous frames as well (``scripts/benchmarks/long_range_limit.py``);
with memory, 100 is possible.

In the ST-COCO files, the field ``is_clear`` of an image tells whether the emblems show.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vodet.data.generated.scenes import (
    SUPERSAMPLING,
    Scene,
    SceneObject,
    draw_background,
    shrink,
    similarity,
)
from vodet.data.generated.settings import (
    COUNT,
    LENGTH,
    QUALITY,
    SEED,
    SIZE,
    Frame,
    Range,
    check_ranges,
    generators,
)

# Symmetric, because training mirrors frames.
EMBLEMS = ("cross", "ring", "bars", "diamond")

_DIAMETERS = (26.0, 40.0)  # in pixels
_EMBLEM_COLOUR = (25.0, 25.0, 25.0)


@dataclass(frozen=True)
class LongRangeConfig:
    """Settings of a long-range set; the same settings give identical files.

    Args:
        train_videos: Number of videos of the training split. With few videos, a detector learns by
            heart which tints have which class.
        val_videos: Number of videos of the validation split.
        frames_per_video: Length of each video.
        clear_frames: Number of frames at the start of each video in which the emblems show.
        size: Side of the square pictures in pixels.
        min_objects: Smallest number of objects of a video.
        max_objects: Largest number of objects of a video; at most as many as fit side by side.
        jpeg_quality: JPEG quality, 1 to 100.
        seed: Seed of all random choices.

    Raises:
        ConfigError: If a number is out of range.
    """

    generator: ClassVar[str] = "vodet-data generate --set long_range"
    version: ClassVar[int] = 1  # increase it when the same settings give different files
    class_names: ClassVar[tuple[str, ...]] = EMBLEMS

    train_videos: int = 240
    val_videos: int = 24
    frames_per_video: int = 48
    clear_frames: int = 8
    size: int = 128
    min_objects: int = 3
    max_objects: int = 5
    jpeg_quality: int = 90
    seed: int = 0

    def __post_init__(self) -> None:
        ranges: dict[str, Range] = {
            "train_videos": COUNT,
            "val_videos": COUNT,
            "frames_per_video": LENGTH,
            "clear_frames": (0, self.frames_per_video),
            "size": SIZE,
            "min_objects": (0, self.max_objects),
            "max_objects": (1, (self.size // int(_DIAMETERS[1])) ** 2),
            "jpeg_quality": QUALITY,
            "seed": SEED,
        }
        check_ranges(self, ranges)

    def frames(self, split: str, video: int) -> Iterator[Frame]:
        """Render the frames of one video of a split."""
        drawn = draw_video(self, split, video)
        clear, covered = (drawn.scene(is_clear=is_clear) for is_clear in (True, False))
        for number in range(self.frames_per_video):
            is_clear = number < self.clear_frames
            scene = clear if is_clear else covered
            yield Frame(scene.picture(number), scene.boxes(number), {"is_clear": is_clear})


@dataclass(frozen=True)
class Individual:
    """What identifies an object in every frame: its tint (RGB), its size and its path.

    Args:
        tint: ``[3]`` RGB, 0 to 255.
        diameter: In pixels.
        centres: Position of the centre in each frame, ``[T, 2]`` xy.
    """

    tint: np.ndarray
    diameter: float
    centres: np.ndarray


@dataclass(frozen=True)
class LongRangeVideo:
    """A video: its background, its individuals, and the class of each.

    Args:
        size: Side of the square pictures.
        background: ``[h, w, 3]`` float32 RGB.
        camera: Position of the picture's top left corner in the background, ``[T, 2]`` xy.
        individuals: The objects from back to front.
        labels: Position of each object's class in ``EMBLEMS``.
    """

    size: int
    background: np.ndarray
    camera: np.ndarray
    individuals: tuple[Individual, ...]
    labels: tuple[int, ...]

    def scene(self, *, is_clear: bool) -> Scene:
        """Return the video with or without emblems."""
        objects = tuple(
            _draw_object(individual, label, is_clear=is_clear)
            for individual, label in zip(self.individuals, self.labels, strict=True)
        )
        return Scene(self.size, self.background, self.camera, objects)


def draw_video(config: LongRangeConfig, split: str, video: int) -> LongRangeVideo:
    """Draw one video of a split; the classes have a random generator of their own."""
    rng, rng_of_labels = generators(config.seed, split, video)
    count = int(rng.integers(config.min_objects, config.max_objects + 1))
    time = np.arange(config.frames_per_video)
    camera = config.size / 2 + rng.uniform(-1, 1, size=2) * time[:, None]
    individuals = _draw_individuals(rng, count, config.size, time)
    background = draw_background(rng, 2 * config.size)
    labels = tuple(rng_of_labels.integers(len(EMBLEMS), size=count).tolist())
    return LongRangeVideo(config.size, background, camera, individuals, labels)


def _draw_individuals(
    rng: np.random.Generator, count: int, size: int, time: np.ndarray
) -> tuple[Individual, ...]:
    """Draw objects of different tints, which all show in full in the first frame.

    They start in different cells of a grid, and never leave the picture.
    """
    columns = math.ceil(math.sqrt(count))
    cells = rng.permutation(columns**2)[:count]
    hues = rng.uniform() + (np.arange(count) + rng.uniform(-0.25, 0.25, count)) / max(count, 1)
    individuals = []
    for cell, hue in zip(cells.tolist(), hues.tolist(), strict=True):
        tint = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.55, 0.9), rng.uniform(0.65, 0.95))
        diameter = rng.uniform(*_DIAMETERS)
        side, corner = size / columns, np.array(divmod(cell, columns)) * size / columns
        start = corner + rng.uniform(diameter / 2, side - diameter / 2, size=2)
        heading, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 2.5)
        velocity = speed * np.array([np.cos(heading), np.sin(heading)])
        centres = _reflected(start + velocity * time[:, None], diameter / 2, size - diameter / 2)
        individuals.append(Individual(255 * np.array(tint), diameter, centres))
    return tuple(individuals)


def _reflected(places: np.ndarray, low: float, high: float) -> np.ndarray:
    """Fold straight paths into the range from ``low`` to ``high``, like a ball between walls."""
    length = high - low
    return high - np.abs(length - (places - low) % (2 * length))


def _draw_object(individual: Individual, label: int, *, is_clear: bool) -> SceneObject:
    """Draw a disc of the individual's tint, with the emblem of its class if it is clear."""
    pixels = math.ceil(individual.diameter) + 4  # a transparent border
    axis = (np.arange(pixels * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - pixels / 2
    x, y = np.meshgrid(*2 * [axis / (individual.diameter / 2)])
    texture = np.empty((*x.shape, 3), dtype=np.float32)
    texture[:] = individual.tint
    if is_clear:
        texture[_emblem(EMBLEMS[label], np.abs(x), np.abs(y))] = _EMBLEM_COLOUR
    silhouette = shrink((np.hypot(x, y) <= 1).astype(np.float32), pixels)
    middle = pixels / 2 - 0.5  # pixel centres are whole numbers
    transforms = [similarity(0.0, 1.0, middle, centre) for centre in individual.centres]
    return SceneObject(label, shrink(texture, pixels), silhouette, np.stack(transforms))


def _emblem(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return where an emblem is, ``[s, s]`` bool, from distances to the axes in radii."""
    if name == "cross":
        return np.asarray((np.minimum(x, y) < 0.17) & (np.maximum(x, y) < 0.68))
    if name == "ring":
        return np.asarray(np.abs(np.hypot(x, y) - 0.52) < 0.16)
    if name == "bars":
        return np.asarray((np.abs(y - 0.38) < 0.15) & (x < 0.62))
    return np.asarray(x + y < 0.68)
