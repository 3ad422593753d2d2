"""Generates a data set in which one frame is often not enough to recognise the objects.

Some frames, never two in a row, are degraded so that textures and borders disappear (see
``degradations``). Objects move a few pixels from frame to frame (see ``scenes``), so the
neighbours of a degraded frame show what it hides. The folder of the data set contains::

    images/{train,val}/{video}/{frame:06d}.jpg
    train.json, val.json      ST-COCO, with file names relative to the folder
    config.json               the settings of the data set

In ``train.json`` and ``val.json``, the field ``degradations`` of an image names its degradations.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from vodet.data.generated.degradations import degrade
from vodet.data.generated.scenes import CLASS_NAMES, ObjectBox, Scene, draw_scene
from vodet.errors import ConfigError, DataError
from vodet.files import writing
from vodet.json_files import parse_json, read_json

SPLITS = ("train", "val")

_GENERATOR = "vodet-data generate"
_VERSION = 3  # increase it when the same settings give different files
_CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class SyntheticConfig:
    """Settings of a generated data set; the same settings give identical files.

    Args:
        train_videos: Number of videos of the training split.
        val_videos: Number of videos of the validation split.
        frames_per_video: Number of frames of each video.
        size: Height and width of the frames in pixels.
        min_objects: Minimum number of objects in a video.
        max_objects: Maximum number of objects in a video.
        degradation_rate: Expected share of degraded frames; no two of them are consecutive.
        jpeg_quality: JPEG quality, 1 to 100.
        seed: Seed of all random choices.

    Raises:
        ConfigError: If a number is out of range.
    """

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
        ranges: dict[str, tuple[float, float]] = {
            "train_videos": (1, 100_000),
            "val_videos": (1, 100_000),
            "frames_per_video": (1, 1_000_000),
            "size": (64, 4096),
            "min_objects": (0, self.max_objects),
            "max_objects": (1, 1000),
            "degradation_rate": (0, 0.5),
            "jpeg_quality": (1, 100),
            "seed": (0, 2**63),
        }
        faults = [
            f"{name} must be from {low:g} to {high:g}, found {getattr(self, name)}"
            for name, (low, high) in ranges.items()
            if not low <= getattr(self, name) <= high
        ]
        if faults:
            msg = f"A generated set cannot have these settings: {'; '.join(faults)}."
            raise ConfigError(msg)


@dataclass(frozen=True)
class RenderedFrame:
    """The annotations of a frame: its degradations (empty for a clean frame) and its objects."""

    degradations: tuple[str, ...]
    boxes: list[ObjectBox]


def generate(
    root: str | Path,
    config: SyntheticConfig = SyntheticConfig(),
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Generate a data set in the folder ``root``.

    The files are written to a temporary folder next to ``root``, which is renamed at the end, so an
    interrupted run leaves no incomplete data set.

    Args:
        root: The folder to create.
        config: Settings of the data set.
        workers: Number of videos rendered in parallel; by default one per processor. It does not
            change the files.
        overwrite: Whether an existing generated data set is replaced.

    Raises:
        DataError: If ``root`` exists, unless it is a generated data set and ``overwrite`` is set.
        OutputError: If the files cannot be written.
    """
    root = Path(root).resolve()
    _refuse_existing(root, overwrite)
    with writing(root, root.parent), _temporary_folder(root) as folder:
        for split in SPLITS:
            _write_split(folder, split, config, workers)
        (folder / _CONFIG_FILE).write_text(json.dumps(_settings(config), indent=2) + "\n")
        if root.exists():
            root.rename(folder.with_name("replaced"))
        folder.rename(root)


@contextmanager
def _temporary_folder(root: Path) -> Iterator[Path]:
    root.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as temporary:
        yield Path(temporary, "new")


def ensure_generated(root: str | Path, config: SyntheticConfig = SyntheticConfig()) -> None:
    """Generate a data set in ``root`` unless it exists already.

    Raises:
        DataError: If ``root`` exists but is not a generated data set with these settings.
    """
    root = Path(root)
    if not root.exists():
        generate(root, config)
        return
    found, expected = _read_settings(root), _settings(config)
    names = [name for name in expected | found if found.get(name) != expected.get(name)]
    if names:
        differences = ", ".join(
            f"{name}: expected {expected.get(name)}, found {found.get(name)}" for name in names
        )
        msg = (
            f"The generated set in {root} has other settings ({differences}). Delete the folder "
            "to have it generated again, or choose another folder."
        )
        raise DataError(msg)


def video_scene(config: SyntheticConfig, split: str, video: int) -> Scene:
    """Return the scene of one video, given its split and its number in the split."""
    scene_rng, _ = _generators(config, split, video)
    num_objects = int(scene_rng.integers(config.min_objects, config.max_objects + 1))
    return draw_scene(
        scene_rng, size=config.size, num_frames=config.frames_per_video, num_objects=num_objects
    )


def _generators(
    config: SyntheticConfig, split: str, video: int
) -> tuple[np.random.Generator, np.random.Generator]:
    """Return the random generators for the scene of a video and for its degradations."""
    seeds = np.random.SeedSequence([config.seed, SPLITS.index(split), video]).spawn(2)
    return np.random.default_rng(seeds[0]), np.random.default_rng(seeds[1])


def _write_split(folder: Path, split: str, config: SyntheticConfig, workers: int | None) -> None:
    def render(video: int) -> list[RenderedFrame]:
        return _write_video(folder, split, config, video)

    num_videos = config.train_videos if split == "train" else config.val_videos
    # Threads suffice, because OpenCV releases the interpreter lock. Unlike processes, threads start
    # at once and need no `if __name__ == "__main__":`.
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        videos = list(pool.map(render, range(num_videos)))
    document = _st_coco(split, config.size, videos)
    (folder / f"{split}.json").write_text(json.dumps(document, separators=(",", ":")))


def _write_video(
    folder: Path, split: str, config: SyntheticConfig, video: int
) -> list[RenderedFrame]:
    """Write the frames of a video as JPEG files and return their annotations."""
    scene = video_scene(config, split, video)
    _, rng = _generators(config, split, video)
    frames: list[RenderedFrame] = []
    for frame in range(config.frames_per_video):
        picture = scene.picture(frame)
        degradations: tuple[str, ...] = ()
        if rng.random() < _degradation_probability(config.degradation_rate, frames):
            picture, degradations = degrade(picture, rng)
        _write_jpeg(folder / _file_name(split, video, frame), picture, config.jpeg_quality)
        frames.append(RenderedFrame(degradations, scene.boxes(frame)))
    return frames


def _degradation_probability(rate: float, earlier: list[RenderedFrame]) -> float:
    """Return the probability of degrading the next frame.

    It is 0 after a degraded frame, and otherwise so high that the expected share of degraded frames
    is ``rate``.
    """
    if not earlier:
        return rate
    return 0.0 if earlier[-1].degradations else rate / (1 - rate)


def _write_jpeg(path: Path, picture: np.ndarray, quality: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    path.write_bytes(encoded.tobytes())


def _st_coco(split: str, size: int, videos: Iterable[list[RenderedFrame]]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for video, frames in enumerate(videos):
        for frame_number, frame in enumerate(frames):
            image_id = len(images)
            image = {
                "id": image_id,
                "file_name": _file_name(split, video, frame_number),
                "video": _video_name(split, video),
                "frame_number": frame_number,
                "height": size,
                "width": size,
                "degradations": frame.degradations,
            }
            images.append(image)
            for box in frame.boxes:
                annotations.append(_annotation(len(annotations) + 1, image_id, box))
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASS_NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotation(annotation_id: int, image_id: int, box: ObjectBox) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": box.label,
        "id_track": box.track_id,
        "bbox": box.bbox,
        "area": box.area,
        "iscrowd": 0,
    }


def _video_name(split: str, video: int) -> str:
    return f"{split}_{video:03d}"


def _file_name(split: str, video: int, frame: int) -> str:
    return f"images/{split}/{_video_name(split, video)}/{frame:06d}.jpg"


def _settings(config: SyntheticConfig) -> dict[str, Any]:
    return {"generator": _GENERATOR, "version": _VERSION, **asdict(config)}


def _read_settings(root: Path) -> dict[str, Any]:
    path = root / _CONFIG_FILE
    try:
        settings = parse_json(read_json(path, "the settings of a generated set"), path)
    except DataError as error:
        raise _not_generated(root, str(error).rstrip(".")) from error
    if not isinstance(settings, dict) or settings.get("generator") != _GENERATOR:
        raise _not_generated(root, f"{path} was not written by `{_GENERATOR}`")
    return settings


def _not_generated(root: Path, reason: str) -> DataError:
    return DataError(
        f"{root} exists, but is not a generated set: {reason}. Choose another folder, or remove "
        "this one by hand."
    )


def _refuse_existing(root: Path, overwrite: bool) -> None:
    if not root.exists():
        return
    if not overwrite:
        msg = (
            f"{root} exists already. Choose another folder, or replace this one with --overwrite "
            "(overwrite=True in Python)."
        )
        raise DataError(msg)
    _read_settings(root)  # refuses to replace anything but a generated set
