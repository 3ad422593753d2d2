"""Measures the conversion of ImageNet VID: XML files per second and peak memory.

Writes XML files and empty images to a temporary folder, and converts them in a fresh process.
Conversion does not open images.

    python scripts/benchmarks/convert.py                                100000 files
    python scripts/benchmarks/convert.py --files 2000 --workers 2

The files are in the page cache, because the script has just written them. Reading them from a disk,
or over a network, takes longer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

FRAMES_PER_VIDEO = 290  # as in the training set: 1122397 frames in 3862 videos
OBJECTS = (1, 1, 1, 2, 3)  # numbers of objects in a frame; their mean is 1.6, as there
WIDTH, HEIGHT = 1280, 720
NAMES = ("n02691156", "n02084071", "n02958343", "n02391049")
OBJECT = """\
	<object>
		<trackid>{track}</trackid>
		<name>{name}</name>
		<bndbox>
			<xmax>{xmax}</xmax>
			<xmin>{xmin}</xmin>
			<ymax>{ymax}</ymax>
			<ymin>{ymin}</ymin>
		</bndbox>
		<occluded>0</occluded>
		<generated>1</generated>
	</object>
"""
FRAME = """\
<annotation>
	<folder>{folder}</folder>
	<filename>{number:06d}</filename>
	<source>
		<database>ILSVRC_2015</database>
	</source>
	<size>
		<width>{width}</width>
		<height>{height}</height>
	</size>
{objects}</annotation>
"""


def main() -> None:
    """Generate the files, convert them and print the results."""
    arguments = _parse_arguments()
    if arguments.measure:
        Console(soft_wrap=True).print_json(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source = Path(folder) / "ILSVRC2015"
        boxes = write_tree(source, arguments.files)
        command = [sys.executable, __file__, "--measure", str(source), *sys.argv[1:]]
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    _print_results(arguments, json.loads(output), boxes)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=100_000, help="number of XML files")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes (default: one per processor)"
    )
    parser.add_argument("--folder", help="parent of the temporary folder")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_tree(source: Path, files: int) -> int:
    """Write XML files and empty images, and return the number of boxes in the XML files."""
    boxes = 0
    rng = random.Random(0)
    for start in track(range(0, files, FRAMES_PER_VIDEO), "writing", transient=True):
        video = start // FRAMES_PER_VIDEO
        name = f"ILSVRC2015_VID_train_{video // 1000:04}/ILSVRC2015_train_{video:08}"
        annotations, images = (
            source / kind / "VID/train" / name for kind in ("Annotations", "Data")
        )
        annotations.mkdir(parents=True)
        images.mkdir(parents=True)
        for number in range(min(FRAMES_PER_VIDEO, files - start)):
            objects = list(_objects(rng))
            boxes += len(objects)
            content = FRAME.format(
                folder=name, number=number, width=WIDTH, height=HEIGHT, objects="".join(objects)
            )
            (annotations / f"{number:06d}.xml").write_text(content)
            (images / f"{number:06d}.JPEG").touch()
    return boxes


def _objects(rng: random.Random) -> Iterator[str]:
    for track_id in range(rng.choice(OBJECTS)):
        left, top = rng.randrange(WIDTH // 2), rng.randrange(HEIGHT // 2)
        yield OBJECT.format(
            track=track_id,
            name=rng.choice(NAMES),
            xmin=left,
            ymin=top,
            xmax=left + rng.randrange(8, WIDTH // 2),
            ymax=top + rng.randrange(8, HEIGHT // 2),
        )


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Convert the files; return seconds, bytes of memory and the numbers of frames and boxes."""
    from vodet.data.formats.imagenet import read_imagenet_vid
    from vodet.data.formats.writer import write_st_coco

    target = arguments.measure.parent / "train.json"
    before = _peak(resource.RUSAGE_SELF)
    start = time.perf_counter()
    records = read_imagenet_vid(arguments.measure, split="train", workers=arguments.workers)
    summary = write_st_coco(records, target)
    return {
        "seconds": time.perf_counter() - start,
        "before": before,
        "peak": _peak(resource.RUSAGE_SELF),
        "worker": _peak(resource.RUSAGE_CHILDREN),
        "frames": summary.frames,
        "boxes": summary.boxes.total(),
        "size": target.stat().st_size,
    }


def _peak(who: int) -> int:
    return resource.getrusage(who).ru_maxrss * 1024


def _print_results(arguments: argparse.Namespace, found: dict[str, float], boxes: int) -> None:
    if (found["frames"], found["boxes"]) != (arguments.files, boxes):
        sys.exit(f"Expected {arguments.files} frames and {boxes} boxes, found {found}.")
    table = Table("", "", title="Converting ImageNet VID")
    table.add_row("files per second", f"{found['frames'] / found['seconds']:.0f}")
    table.add_row("seconds", f"{found['seconds']:.1f}")
    table.add_row("peak memory of the process, MB", f"{found['peak'] / 1e6:.0f}")
    table.add_row("peak memory before the conversion, MB", f"{found['before'] / 1e6:.0f}")
    table.add_row("peak memory of the largest worker, MB", f"{found['worker'] / 1e6:.0f}")
    console = Console()
    console.print(table)
    console.print(
        f"{arguments.files} files, {boxes} boxes, {found['size'] / 1e6:.1f} MB of JSON, "
        f"{arguments.workers} workers; Python {platform.python_version()}, {psutil.cpu_count()} "
        f"cores, load {psutil.getloadavg()[0]:.1f}."
    )


if __name__ == "__main__":
    main()
