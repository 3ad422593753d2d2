"""Measures the speed of second phases of training with and without a candidate cache.

    python scripts/benchmarks/candidate_cache.py --backbone resnet50 --size 320 576

Each row freezes the base of a detector and trains a candidate fusion on generated videos, with
Lightning's trainer and the settings of conf/: first from the images, then from the cache. The time
of a step includes its batch. Weights are random. The last columns show how a step with the cache is
divided into reading the batch, encoding (reading from the cache, and what the trained layers
compute from each frame), and the rest.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import hydra
import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vodet import VideoDetector
from vodet.cli.app import config_dir
from vodet.cli.train import build
from vodet.data.generated.sets import generate
from vodet.data.generated.synthetic import SyntheticConfig
from vodet.encodings import EncodedFrames
from vodet.frame_store import FrameStore
from vodet.tasks.candidate_cache import CandidateCache

_TWO_STAGE = (
    "model/pyramid=fpn",
    "model.frozen=[backbone,pyramid,head.rpn,head.box_head]",
    "window=symmetric",
    "+data.temporal_dropout._target_=vodet.data.clips.sampling.TemporalDropout",
    "+data.temporal_dropout.past=1",
    "+data.temporal_dropout.future=1",
)
_HISTORY = "data.history.windows=2"
_SMALL = ("model/head=two_stage_small", *_TWO_STAGE)
_LARGE = ("model/head=two_stage", *_TWO_STAGE)
_SELSA = ("model/head/fusion=selsa", "model.head.refine=scores")
ROWS: dict[str, tuple[str, ...]] = {
    "two_stage_small, selsa": (*_SMALL, *_SELSA),
    "two_stage_small, max (linked)": (*_SMALL, "model/head/fusion=max"),
    "two_stage_small, long_term": (*_SMALL, "model/head/fusion=long_term", _HISTORY),
    "two_stage_small, sltnet (linked)": (*_SMALL, "model/head/fusion=sltnet", _HISTORY),
    "two_stage, selsa": (*_LARGE, *_SELSA),
    "two_stage, max (linked)": (*_LARGE, "model/head/fusion=max"),
    "one_stage, yolov": (
        "model/pyramid=pafpn",
        "model/head=one_stage",
        "model/head/fusion=yolov",
        "model.backbone.strides=[8,16,32]",
        "model.frozen=[backbone,pyramid,head.base]",
        "window=symmetric",
    ),
    "detr (RT-DETRv2, ResNet-50), query_attention": (
        "model/pyramid=identity",
        "model/backbone=none",
        "model/head=detr",
        "model/head/fusion=query_attention",
        "+model.head.config.model_type=rt_detr_v2",
        "model.frozen=[head.model]",
        "window=symmetric",
    ),
}


class Clock(Callback):
    """Notes the times of the steps, and how much of them batches and encoding take."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.batches: list[float] = []
        self.encoding: list[float] = []
        self._start = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Start the clock of the first step."""
        if pl_module._cache is not None:
            pl_module._cache = TimedCache(pl_module.detector, pl_module._cache.store, self)
        self._start = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        """Note that the batch is there."""
        self.batches.append(time.perf_counter() - self._start)
        self.encoding.append(0.0)

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the end of a step."""
        self.steps.append(time.perf_counter() - self._start)
        self._start = time.perf_counter()


class TimedCache(CandidateCache):
    """A cache that reports the time of encoding to a clock."""

    def __init__(self, detector: VideoDetector, store: FrameStore, clock: Clock) -> None:
        super().__init__(detector, store)
        self._clock = clock

    def encode(self, numbers: Tensor, sizes: Tensor) -> EncodedFrames:
        """Encode frames."""
        start = time.perf_counter()
        frames = super().encode(numbers, sizes)
        self._clock.encoding[-1] += time.perf_counter() - start
        return frames


def measure(overrides: tuple[str, ...], steps: int, options: argparse.Namespace) -> Clock:
    """Train for some steps after a warm-up, and return their times."""
    chosen = [
        "data=synthetic",
        "prepare_data=null",
        "data/input=small",
        "data.train_transforms=[]",
        f"data_dir={options.folder}",
        f"model/backbone={options.backbone}",
        "model/fusion=none",
        *overrides,
        *options.overrides,
        "~data.resize",
        "+data.resize={_target_: vodet.data.frames.resize.Stretch, "
        f"height: {options.size[0]}, width: {options.size[1]}}}",
    ]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("train", [*chosen, "run_dir=unused"])
    L.seed_everything(0, verbose=False)
    data, task = build(config)
    clock = Clock()
    trainer = L.Trainer(
        accelerator=options.accelerator, max_epochs=-1, max_steps=steps + options.warm_up,
        callbacks=[clock], limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        gradient_clip_val=config.trainer.gradient_clip_val, precision=options.precision,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    return clock


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet50", help="from conf/model/backbone")
    parser.add_argument("--size", type=int, nargs=2, default=[320, 576], help="height and width")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS)[:5], metavar="ROW")
    parser.add_argument("--videos", type=int, default=4, help="of eight frames")
    parser.add_argument("--steps", type=int, default=8, help="with the cache")
    parser.add_argument("--slow-steps", type=int, default=2, help="without the cache")
    parser.add_argument("--warm-up", type=int, default=1, help="further steps before these")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("overrides", nargs="*", help="such as data.batch_size=4")
    options = parser.parse_intermixed_args()
    title = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(options)}"
    table = Table(title=title)
    columns = ("images, steps/s", "cache, steps/s", "speed-up", "cache", "batch", "encode", "rest")
    table.add_column("detector")
    for column in columns:
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        options.folder = folder
        settings = SyntheticConfig(
            train_videos=options.videos, val_videos=1, frames_per_video=8, size=max(options.size)
        )
        generate(Path(folder) / "demo", settings)
        for number, name in enumerate(options.rows):
            caches = Path(folder) / str(number)
            slow = measure(ROWS[name], options.slow_steps, options)
            cached = (*ROWS[name], f"data.candidate_cache={caches}")
            fast = measure(cached, options.steps, options)
            size = sum(path.stat().st_size for path in caches.rglob("*"))
            table.add_row(name, *figures(slow, fast, size, options.warm_up))
    Console(width=160).print(table)


def figures(slow: Clock, fast: Clock, size: int, warm_up: int) -> list[str]:
    """Return the cells of a row."""
    step, cached = median(slow.steps[warm_up:]), median(fast.steps[warm_up:])
    total = sum(fast.steps[warm_up:])
    batch, encode = (sum(times[warm_up:]) / total for times in (fast.batches, fast.encoding))
    return [
        f"{1 / step:.3f}",
        f"{1 / cached:.3f}",
        f"{step / cached:.1f}",
        f"{size / 1e9:.2f} GB",
        *(f"{share:.0%}" for share in (batch, encode, 1 - batch - encode)),
    ]


if __name__ == "__main__":
    main()
