"""Compares the speed of the data loaders with a bare loop of decoding and resizing.

    python scripts/benchmarks/loader.py ANNOTATIONS IMAGES

The loaders and the bare loop read the same frames in the same number of processes. The bare loop
reads, decodes and resizes each file with OpenCV, to the same size with the same reduction, and
returns no frames. The loaders also make clips or chunks with boxes, collate them into batches, and
send the batches to the main process.

Each measurement reads the data set several times without a pause, because workers are idle at the
end of an epoch, which would matter more here than with a large data set. The measurements of a
round run one after the other. The table shows medians over the rounds; ratios are computed within
each round. Without augmentation, the target is at least 0.8 times the speed of the bare loop. On a
busy machine, the ratio of CPU times (the last column) is a less noisy measure.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import cv2
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from vodet.data.annotations.source import Source
from vodet.data.clips.datamodule import ClipDataModule
from vodet.data.frames.images import image_path, reduction_for
from vodet.data.frames.resize import Resize
from vodet.stages import FrameResize
from vodet.structures import ClipBatch, Window

REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
Job = list[tuple[str, int]]  # image files and their reductions


def one_thread() -> None:
    """Prepare a process of the bare loop."""
    cv2.setNumThreads(0)


def decode_and_resize(job: Job, resize: FrameResize) -> int:
    """Read, decode and resize frames, and return their number."""
    for path, reduction in job:
        frame = cv2.imdecode(np.fromfile(path, np.uint8), REDUCED[reduction])
        assert frame is not None, path
        resize(frame)
    return len(job)


def bare_jobs(module: ClipDataModule, images: str, count: int) -> list[Job]:
    """Divide the frames of a data set into ``count`` jobs."""
    index = module.val_index
    job = [
        (
            image_path(images, index.file_name(row)),
            reduction_for(tuple(index.sizes[row].tolist()), module.resize),
        )
        for row in range(index.num_frames)
    ]
    return [job[start::count] for start in range(count)]


def repeat(loader: DataLoader[Any], passes: int) -> DataLoader[Any]:
    """Return a loader with an epoch of several passes through another loader's data."""
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=[item for _ in range(passes) for item in loader.sampler],
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        persistent_workers=True,
    )


def count_frames(loader: DataLoader[Any]) -> int:
    """Iterate over a loader and count the frames that it reads, each frame once per clip."""
    clips = (
        clip
        for batch in loader
        for clip in (batch.infos if isinstance(batch, ClipBatch) else [batch.infos])
    )
    return sum(len({info.image_id for info in clip}) for clip in clips)


def cpu_seconds() -> float:
    """Return the CPU time of this process and its child processes."""
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(time.user + time.system for time in times))


def measure(run: Callable[[], int]) -> tuple[float, float]:
    """Return frames per second and CPU milliseconds per frame of a run that counts its frames."""
    start, cpu_start = time.perf_counter(), cpu_seconds()
    count = run()
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu_start
    return count / seconds, 1000 * cpu / count


def main() -> None:
    """Run the benchmark and print the table."""
    # Imported after vodet, which keeps albumentations from checking for updates online.
    from albumentations import HorizontalFlip, RandomBrightnessContrast

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", help="ST-COCO file")
    parser.add_argument("images", help="folder that the file names are relative to")
    parser.add_argument("--workers", type=int, default=2, help="processes per loader (default 2)")
    parser.add_argument("--batch-size", type=int, default=16, help="clips per batch (default 16)")
    parser.add_argument("--short-side", type=int, default=320, help="in pixels (default 320)")
    parser.add_argument("--passes", type=int, default=8, help="passes per measurement (default 8)")
    parser.add_argument("--rounds", type=int, default=4, help="number of rounds (default 4)")
    arguments = parser.parse_args()

    def module(**options: Any) -> ClipDataModule:
        source = Source(arguments.annotations, arguments.images)
        return ClipDataModule(
            train=source,
            val=source,
            window=Window(past=1),
            batch_size=arguments.batch_size,
            num_workers=arguments.workers,
            resize=Resize(arguments.short_side),
            **options,
        )

    plain = module()
    augmented = module(
        train_transforms=[
            HorizontalFlip(p=0.5),
            RandomBrightnessContrast(p=0.5),
        ]
    )
    jobs = bare_jobs(plain, arguments.images, 8 * arguments.workers) * arguments.passes
    bare = partial(decode_and_resize, resize=plain.resize)
    with multiprocessing.Pool(arguments.workers, one_thread) as pool:
        loaders = {
            "training": plain.train_dataloader(),
            "training, flip and brightness": augmented.train_dataloader(),
            "evaluation": plain.val_dataloader(),
        }
        loaders = {name: repeat(loader, arguments.passes) for name, loader in loaders.items()}
        runs: dict[str, Callable[[], int]] = {
            "bare loop": lambda: sum(pool.imap_unordered(bare, jobs)),
            **{name: partial(count_frames, loader) for name, loader in loaders.items()},
        }
        for run in runs.values():  # warm up: start the workers, fill the page cache
            run()
        rounds = [
            {name: measure(run) for name, run in runs.items()} for _ in range(arguments.rounds)
        ]
    title = f"{plain.val_index!r}, {arguments.workers} processes, {arguments.rounds} rounds"
    table = Table("what", "frames/s", "of the bare loop", title=title)
    for column in ("lowest", "highest", "CPU ms/frame", "bare loop's share"):
        table.add_column(column, justify="right")
    for name in runs:
        rates, costs = zip(*(figures[name] for figures in rounds), strict=True)
        bare_rates, bare_costs = zip(*(figures["bare loop"] for figures in rounds), strict=True)
        ratios = [rate / bare_rate for rate, bare_rate in zip(rates, bare_rates, strict=True)]
        shares = [bare_cost / cost for cost, bare_cost in zip(costs, bare_costs, strict=True)]
        table.add_row(
            name,
            f"{median(rates):.0f}",
            *(f"{ratio:.2f}" for ratio in (median(ratios), min(ratios), max(ratios))),
            *(f"{median(values):.2f}" for values in (costs, shares)),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
