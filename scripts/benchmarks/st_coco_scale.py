"""Compares vodet with pycocotools in reading annotations of the size of ImageNet VID.

Writes an ST-COCO file of random boxes and reads it in fresh processes. Measures the time, the peak
memory, the memory held after reading, and the memory that each data loader worker adds.

    python scripts/benchmarks/st_coco_scale.py                          # ImageNet VID train
    python scripts/benchmarks/st_coco_scale.py --frames 20000 --boxes 30000 --videos 100
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

# Only the measured processes import torch, vodet and pycocotools, because Linux includes the memory
# of the parent process in the peak of the process that it starts.

MEGABYTE = 10**6
WIDTH, HEIGHT = 1280, 720
CLASSES = 30
TOUCHED_FRAMES = 100_000  # frames that each worker uses, evenly spaced in the data set


def main() -> None:
    """Generate the files, measure reading and print the table."""
    arguments = _parse_arguments()
    if arguments.measure:
        measurement = MEASUREMENTS[arguments.measure](READERS[arguments.reader], *arguments.files)
        Console().print_json(json.dumps(measurement))
        return
    with tempfile.TemporaryDirectory() as folder:
        path, tiny = Path(folder) / "annotations.json", Path(folder) / "tiny.json"
        write_st_coco(path, arguments.videos, arguments.frames, arguments.boxes)
        write_st_coco(tiny, 1, 1, 1)
        results = {reader: _measure_all(reader, path, tiny) for reader in READERS}
        _print_results(arguments, path.stat().st_size, results)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--videos", type=int, default=3862)
    parser.add_argument("--frames", type=int, default=1_122_397)
    parser.add_argument("--boxes", type=int, default=1_770_000)
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def write_st_coco(path: Path, videos: int, frames: int, boxes: int) -> None:
    """Write an ST-COCO file entry by entry, in the format of ``json.dump``."""
    categories = [{"id": i, "name": f"class {i}", "supercategory": ""} for i in range(CLASSES)]
    with path.open("w") as file:
        file.write('{"info": {}, "images": [')
        file.writelines(_separated(_images(videos, frames)))
        file.write('], "annotations": [')
        file.writelines(_separated(_annotations(frames, boxes)))
        file.write(f'], "categories": {json.dumps(categories)}}}')


def _separated(entries: Iterator[str]) -> Iterator[str]:
    yield next(entries)
    for entry in entries:
        yield ", " + entry


def _images(videos: int, frames: int) -> Iterator[str]:
    for image in range(frames):
        video = image * videos // frames
        number = image - -(-video * frames // videos)
        name = f"train/ILSVRC2015_VID_train_{video // 1000:04}/ILSVRC2015_train_{video:08}"
        yield (
            f'{{"file_name": "{name}/{number:06}.JPEG", "frame_number": {number}, '
            f'"height": {HEIGHT}, "id": {image}, "video": "{name}", "width": {WIDTH}}}'
        )


def _annotations(frames: int, boxes: int) -> Iterator[str]:
    draw = random.Random(0).randrange
    for annotation in range(boxes):
        width, height = draw(8, WIDTH // 2), draw(8, HEIGHT // 2)
        box = f"[{draw(WIDTH - width)}, {draw(HEIGHT - height)}, {width}, {height}]"
        image = annotation * frames // boxes
        yield (
            f'{{"area": {width * height}, "bbox": {box}, "category_id": {image % CLASSES}, '
            f'"id": {annotation}, "id_track": "{annotation % 3}", "ignore": 0, '
            f'"image_id": {image}, "iscrowd": 0, "occluded": "0"}}'
        )


@dataclass(frozen=True)
class VodetReader:
    """Reads with vodet."""

    def read(self, path: str) -> Any:
        """Return the index of a file."""
        from vodet.data.annotations.st_coco import read_st_coco

        return read_st_coco(path)

    def num_frames(self, index: Any) -> int:
        """Return the number of frames."""
        return int(index.num_frames)

    def touch(self, index: Any, frame: int) -> None:
        """Use the annotations of a frame as a data set does."""
        index.file_name(frame)
        index.target(frame)


@dataclass(frozen=True)
class PycocotoolsReader:
    """Reads with pycocotools."""

    def read(self, path: str) -> Any:
        """Return the ``COCO`` object of a file."""
        from pycocotools.coco import COCO

        with contextlib.redirect_stdout(None):
            return COCO(path)

    def num_frames(self, coco: Any) -> int:
        """Return the number of frames."""
        return len(coco.imgs)

    def touch(self, coco: Any, frame: int) -> None:
        """Use the annotations of a frame as a data set does."""
        coco.loadImgs(frame)
        coco.loadAnns(coco.getAnnIds(imgIds=frame))


READERS = {"vodet": VodetReader(), "pycocotools": PycocotoolsReader()}
Reader = VodetReader | PycocotoolsReader


def measure_reading(reader: Reader, path: str, tiny: str) -> dict[str, float]:
    """Measure seconds and bytes of reading, without imports and their memory."""
    reader.read(tiny)
    before = _unique_bytes()
    wall, user = time.perf_counter(), _usage().ru_utime
    data = reader.read(path)
    measured = {
        "wall": time.perf_counter() - wall,
        "user": _usage().ru_utime - user,
        "peak": _usage().ru_maxrss * 1024,
        "held": _unique_bytes() - before,
    }
    return measured | ({"index": data.nbytes} if hasattr(data, "nbytes") else {})


def _usage() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_SELF)


def _unique_bytes() -> int:
    """Return the bytes of this process that it shares with no other process."""
    return int(psutil.Process().memory_full_info().uss)


@dataclass(frozen=True)
class TouchingDataset:
    """Each item uses many frames and returns the unique bytes of its worker."""

    reader: Reader
    data: Any
    workers: int = 2

    def __len__(self) -> int:
        return self.workers

    def __getitem__(self, item: int) -> int:
        frames = range(self.reader.num_frames(self.data))
        for frame in frames[:: max(1, len(frames) // TOUCHED_FRAMES)]:
            self.reader.touch(self.data, frame)
        return _unique_bytes()


def measure_workers(reader: Reader, path: str) -> dict[str, float]:
    """Measure the unique bytes of the larger of two workers, for forked and spawned workers."""
    from torch.utils.data import DataLoader

    data = reader.read(path)
    unique = {}
    for method in ("fork", "spawn"):
        dataset: Any = TouchingDataset(reader, data)
        loader = DataLoader(
            dataset, batch_size=None, num_workers=len(dataset), multiprocessing_context=method
        )
        unique[method] = max(loader)
    return unique


MEASUREMENTS: dict[str, Any] = {"reading": measure_reading, "workers": measure_workers}


def _measure_all(reader: str, path: Path, tiny: Path) -> dict[str, float]:
    workers = _in_fresh_process("workers", reader, path)
    workers_of_tiny = _in_fresh_process("workers", reader, tiny)
    added = {method: workers[method] - workers_of_tiny[method] for method in workers}
    return _in_fresh_process("reading", reader, path, tiny) | added


def _in_fresh_process(measurement: str, reader: str, *files: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", measurement, "--reader", reader, "--files"]
    output = subprocess.run([*command, *map(str, files)], stdout=subprocess.PIPE, check=True)
    return dict(json.loads(output.stdout))


def _print_results(
    arguments: argparse.Namespace, file_size: int, results: dict[str, dict[str, float]]
) -> None:
    table = Table(title="Reading annotations")
    for column in ("", *results, "target"):
        table.add_column(column, justify="right" if column else "left")
    for key, label, unit, target in (
        ("wall", "seconds to read, wall", 1, "6"),
        ("user", "seconds to read, user CPU", 1, ""),
        ("peak", "peak memory of the process, MB", MEGABYTE, "2500"),
        ("held", "memory held after reading, MB", MEGABYTE, ""),
        ("index", "arrays of the index, MB", MEGABYTE, "250"),
        ("fork", "added by a forked worker, MB", MEGABYTE, "30"),
        ("spawn", "added by a spawned worker, MB", MEGABYTE, "30"),
    ):
        values = (result.get(key) for result in results.values())
        shown = ("" if value is None else f"{value / unit:.1f}" for value in values)
        table.add_row(label, *shown, target)
    console = Console()
    console.print(table)
    console.print(
        f"{arguments.videos} videos, {arguments.frames} frames, {arguments.boxes} boxes, "
        f"{file_size / 1e6:.0f} MB of JSON; 2 workers, each using up to {TOUCHED_FRAMES} "
        f"frames; the added memory excludes memory that processes share. "
        f"Python {platform.python_version()}, {psutil.cpu_count()} cores, "
        f"load {psutil.getloadavg()[0]:.1f}."
    )


if __name__ == "__main__":
    main()
