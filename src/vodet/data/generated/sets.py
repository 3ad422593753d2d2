"""Writes generated sets.

The folder of a generated set contains::

    images/{train,val}/{video}/{frame:06d}.jpg
    train.json, val.json      ST-COCO, file names relative to the folder
    config.json               the settings of the set
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from vodet.data.generated.long_range import LongRangeConfig
from vodet.data.generated.scenes import ObjectBox
from vodet.data.generated.settings import SPLITS, Frame
from vodet.data.generated.synthetic import SyntheticConfig
from vodet.errors import DataError
from vodet.files import writing
from vodet.json_files import parse_json, read_json

SetConfig = SyntheticConfig | LongRangeConfig
SETS: dict[str, type[SetConfig]] = {"degraded": SyntheticConfig, "long_range": LongRangeConfig}

DEGRADED = SyntheticConfig()

_CONFIG_FILE = "config.json"


def generate(
    root: str | Path,
    config: SetConfig = DEGRADED,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Generate a data set in the folder ``root``.

    The files are written to a temporary folder next to ``root``, which is renamed at the end, so an
    interrupted run leaves no incomplete set.

    Args:
        root: The folder to create.
        config: Settings of the set.
        workers: Number of videos rendered in parallel; by default one per processor. The files do
            not depend on it.
        overwrite: Whether an existing generated set is replaced.

    Raises:
        DataError: If ``root`` exists, unless it is a generated set and ``overwrite`` is set.
        OutputError: If the set cannot be written.
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


def ensure_generated(root: str | Path, config: SetConfig = DEGRADED) -> None:
    """Generate a data set in ``root`` unless it exists already.

    Raises:
        DataError: If ``root`` exists but is not a generated set, or has other settings.
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
            f"The generated set in {root} has other settings ({differences}). Delete "
            "the folder so that vodet-train generates it again, or set another data_dir."
        )
        raise DataError(msg)


def _write_split(folder: Path, split: str, config: SetConfig, workers: int | None) -> None:
    def render(video: int) -> list[Frame]:
        return _write_video(folder, split, config, video)

    num_videos = config.train_videos if split == "train" else config.val_videos
    # Threads suffice, because OpenCV releases the interpreter lock. Unlike processes, threads start
    # at once and need no `if __name__ == "__main__":`.
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        videos = list(pool.map(render, range(num_videos)))
    document = _st_coco(split, config, videos)
    (folder / f"{split}.json").write_text(json.dumps(document, separators=(",", ":")))


def _write_video(folder: Path, split: str, config: SetConfig, video: int) -> list[Frame]:
    """Write the pictures of a video and return its frames without them."""
    frames = []
    for number, frame in enumerate(config.frames(split, video)):
        path = folder / _file_name(split, video, number)
        _write_jpeg(path, frame.picture, config.jpeg_quality)
        frames.append(replace(frame, picture=frame.picture[:0]))
    return frames


def _write_jpeg(path: Path, picture: np.ndarray, quality: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    path.write_bytes(encoded.tobytes())


def _st_coco(split: str, config: SetConfig, videos: Iterable[list[Frame]]) -> dict[str, Any]:
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
                "height": config.size,
                "width": config.size,
                **frame.fields,
            }
            images.append(image)
            for box in frame.boxes:
                annotations.append(_annotation(len(annotations) + 1, image_id, box))
    categories = [{"id": label, "name": name} for label, name in enumerate(config.class_names)]
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


def _settings(config: SetConfig) -> dict[str, Any]:
    return {"generator": config.generator, "version": config.version, **asdict(config)}


def _read_settings(root: Path) -> dict[str, Any]:
    path = root / _CONFIG_FILE
    try:
        settings = parse_json(read_json(path, "the settings of a generated set"), path)
    except DataError as error:
        raise _not_generated(root, str(error).rstrip(".")) from error
    known = [config.generator for config in SETS.values()]
    if not isinstance(settings, dict) or settings.get("generator") not in known:
        raise _not_generated(root, f"{path} was not written by `{known[0]}`")
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
            f"{root} exists already. Choose another folder, or replace it with vodet-data generate "
            "--overwrite."
        )
        raise DataError(msg)
    _read_settings(root)  # refuses to replace anything but a generated set
