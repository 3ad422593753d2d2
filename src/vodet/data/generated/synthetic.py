"""The degraded set: videos in which a single frame is often not enough to recognise the objects.

Some frames, never two in a row, are degraded so that textures and borders disappear (see
``degradations``). Objects move a few pixels from frame to frame (see ``scenes``), so the
neighbours of a degraded frame show what it hides. In the ST-COCO files, the field ``degradations``
of an image names its degradations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from vodet.data.generated.degradations import degrade
from vodet.data.generated.scenes import CLASS_NAMES, Scene, draw_scene
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


@dataclass(frozen=True)
class SyntheticConfig:
    """Settings of a degraded set; the same settings give identical files.

    Args:
        train_videos: Number of videos of the training split.
        val_videos: Number of videos of the validation split.
        frames_per_video: Length of each video.
        size: Side of the square pictures in pixels.
        min_objects: Smallest number of objects of a video.
        max_objects: Largest number of objects of a video.
        degradation_rate: Expected share of degraded frames; no two of them are consecutive.
        jpeg_quality: JPEG quality, 1 to 100.
        seed: Seed of all random choices.

    Raises:
        ConfigError: If a number is out of range.
    """

    generator: ClassVar[str] = "vodet-data generate"
    version: ClassVar[int] = 3  # increase it when the same settings give different files
    class_names: ClassVar[tuple[str, ...]] = CLASS_NAMES

    train_videos: int = 60
    val_videos: int = 12
    frames_per_video: int = 16
    size: int = 128
    min_objects: int = 3
    max_objects: int = 5
    degradation_rate: float = 0.45
    jpeg_quality: int = 90
    seed: int = 0

    def __post_init__(self) -> None:
        ranges: dict[str, Range] = {
            "train_videos": COUNT,
            "val_videos": COUNT,
            "frames_per_video": LENGTH,
            "size": SIZE,
            "min_objects": (0, self.max_objects),
            "max_objects": (1, 1000),
            "degradation_rate": (0.0, 0.5),
            "jpeg_quality": QUALITY,
            "seed": SEED,
        }
        check_ranges(self, ranges)

    def frames(self, split: str, video: int) -> Iterator[Frame]:
        """Render the frames of one video of a split."""
        scene = video_scene(self, split, video)
        _, rng = generators(self.seed, split, video)
        degradations: tuple[str, ...] = ()
        for frame in range(self.frames_per_video):
            picture = scene.picture(frame)
            probability = self._degradation_probability(frame, was_degraded=bool(degradations))
            degradations = ()
            if rng.random() < probability:
                picture, degradations = degrade(picture, rng)
            yield Frame(picture, scene.boxes(frame), {"degradations": degradations})

    def _degradation_probability(self, frame: int, *, was_degraded: bool) -> float:
        """Return the probability of degrading a frame.

        This keeps the expected share of degraded frames at ``degradation_rate``, with no two in a
        row.
        """
        if frame == 0:
            return self.degradation_rate
        return 0.0 if was_degraded else self.degradation_rate / (1 - self.degradation_rate)


def video_scene(config: SyntheticConfig, split: str, video: int) -> Scene:
    """Draw the scene of one video of a split, before degradation."""
    rng, _ = generators(config.seed, split, video)
    num_objects = int(rng.integers(config.min_objects, config.max_objects + 1))
    return draw_scene(
        rng, size=config.size, num_frames=config.frames_per_video, num_objects=num_objects
    )
