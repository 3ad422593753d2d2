"""Frames per second of the data loaders beside a bare loop of decoding and resizing.

    python scripts/benchmarks/loader.py ANNOTATIONS IMAGES

All read the same frames, by the same functions, in as many processes. The bare loop keeps nothing
and sends nothing back; the loaders make clips or chunks of them, with their boxes, and batches that
arrive in the main process. Each measurement reads the set several times in one go, so that the
workers running dry at the end weighs no more than in the epochs of a large set. Measurements
alternate, and the best of each is shown. Target: at least 0.8 of the bare loop, without
augmentation.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from vodet.data.datamodule import ClipDataModule
from vodet.data.dataset import FrameSource, Source
from vodet.data.transforms import Resize
from vodet.structures import Window

frames: FrameSource  # of a process of the bare loop


def start_bare_loop(source: FrameSource) -> None:
    """Prepare a process of the bare loop."""
    global frames
    frames = source
    cv2.setNumThreads(0)


def decode_and_resize(rows: Sequence[int]) -> int:
    """Read frames, keep none."""
    for row in rows:
        frames.read(row)
    return len(rows)


def repeat(loader: DataLoader[Any], passes: int) -> DataLoader[Any]:
    """Return a loader whose epoch is several of another one's."""
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
    """Run through a loader and count the frames that it delivers."""
    return sum(
        batch.frames.shape[0] * (batch.frames.shape[1] if batch.frames.ndim == 5 else 1)
        for batch in loader
    )


def rate(run: Callable[[], int]) -> float:
    """Return frames per second of a run that returns its number of frames."""
    start = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    # After vodet, which keeps albumentations from asking a server for its newest version.
    from albumentations import HorizontalFlip, RandomBrightnessContrast

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", help="ST-COCO file")
    parser.add_argument("images", help="folder that its file names are relative to")
    parser.add_argument("--workers", type=int, default=2, help="processes of each (default 2)")
    parser.add_argument("--batch-size", type=int, default=16, help="clips (default 16)")
    parser.add_argument("--short-side", type=int, default=320, help="pixels (default 320)")
    parser.add_argument("--passes", type=int, default=4, help="through the set (default 4)")
    parser.add_argument("--rounds", type=int, default=4, help="measurements (default 4)")
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
    source = FrameSource(plain.val_index, arguments.images, plain.resize, "raise")
    rows = np.array_split(np.arange(plain.val_index.num_frames), 8 * arguments.workers)
    jobs = [part.tolist() for part in rows] * arguments.passes
    with multiprocessing.Pool(arguments.workers, start_bare_loop, (source,)) as pool:
        loaders = {
            "training": plain.train_dataloader(),
            "training, flip and brightness": augmented.train_dataloader(),
            "evaluation": plain.val_dataloader(),
        }
        loaders = {name: repeat(loader, arguments.passes) for name, loader in loaders.items()}
        runs: dict[str, Callable[[], int]] = {
            "bare loop": lambda: sum(pool.imap_unordered(decode_and_resize, jobs)),
            **{name: partial(count_frames, loader) for name, loader in loaders.items()},
        }
        for run in runs.values():  # starts the workers, fills the disk cache
            run()
        rates = dict.fromkeys(runs, 0.0)
        for _ in range(arguments.rounds):
            for name, run in runs.items():
                rates[name] = max(rates[name], rate(run))
    table = Table("what", "frames/s", "of the bare loop", title=repr(plain.val_index))
    for name, best in rates.items():
        table.add_row(name, f"{best:.0f}", f"{best / rates['bare loop']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
