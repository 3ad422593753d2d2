"""Measures the accuracy gain of temporal fusions on generated videos, with several seeds.

    python scripts/benchmarks/fusion_gain.py                          map fusions, CenterNet
    python scripts/benchmarks/fusion_gain.py --detector two-stage     candidate fusions, SLTnet
    python scripts/benchmarks/fusion_gain.py --detector one-stage     candidate fusions, YOLOV
    python scripts/benchmarks/fusion_gain.py --detector detr          candidate fusions, RT-DETR
    python scripts/benchmarks/fusion_gain.py --detector long-range    SLTnet, on the long-range set
    python scripts/benchmarks/fusion_gain.py --detector one-stage-long-range    YOLOV, likewise

The runs of one table differ only in fusion and seed. With CenterNet, each run is a single training
run. With the other detectors, a baseline is trained once per seed. Each fusion is then trained in a
second phase on top of the frozen baseline, and its checkpoint is evaluated with several windows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

Found = dict[str, float]


@dataclass(frozen=True)
class Row:
    """A detector to train and evaluate.

    Args:
        name: Its name in the table.
        overrides: Overrides of its training.
        windows: The windows, from conf/window, that it is evaluated with.
        is_second_phase: Whether it starts from the checkpoint of the first row with its seed.
    """

    name: str
    overrides: tuple[str, ...]
    windows: tuple[str, ...]
    is_second_phase: bool = False


def second_phase(
    name: str,
    candidate_fusion: str,
    *overrides: str,
    experiment: str = "demo_sltnet",
    windows: tuple[str, ...] = ("causal", "symmetric"),
) -> Row:
    """Return a row of a second phase with a candidate fusion."""
    chosen = (f"experiment={experiment}", f"model/head/fusion={candidate_fusion}", *overrides)
    return Row(name, chosen, windows, is_second_phase=True)


def candidate_fusions(experiment: str) -> list[Row]:
    """Return a row for each candidate fusion that needs no linked candidates."""

    def row(name: str, fusion: str, module: str, *overrides: str, **options: Any) -> Row:
        width = f"model.head.fusion.{module}.width=256"  # candidates have 64 features
        chosen = (width, *FROM_CACHE, *overrides)
        return second_phase(name, fusion, *chosen, experiment=experiment, **options)

    return [
        row("SELSA", "selsa", "selsa"),
        row("YOLOV", "yolov", "yolov"),
        row("YOLOV++", "yolov_pp", "yolov"),
        row("query attention", "query_attention", "query_attention"),
        row(
            "long-term attention",
            "long_term",
            "attention",
            OFTEN,
            *EARLIER,
            *FROM_HISTORY,
            windows=("single",),
        ),
    ]


OFTEN = "model.head.fusion.attention.key_frame_interval=4"  # videos have 16 frames
STATIC = "model.head.fusion.attention.propagate=none"
FOLLOW_LINKS = "model.head.fusion.attention.assignment=linking"
GENTLE = "model.head.fusion.attention.value_std=0"  # starts as linking without memory
NO_HISTORY = "data.history.windows=0"
# Without augmentation, so that the frozen baseline encodes every frame only once.
FROM_CACHE = ("data.train_transforms=[]", "data.candidate_cache=true")
FROM_HISTORY = ("window=single", "data.losses_on=reference", "data.clips_per_video=6")
LONG_RANGE = "data=long_range"
# Key frames like the ones of a stream: one from each fifth of the video before the clip.
EARLIER = ("data.history.policy=earlier", "data.history.windows=5")
KEY_FRAMES = (LONG_RANGE, *EARLIER)
ONLY_MEMORY = (*KEY_FRAMES, *FROM_HISTORY, *FROM_CACHE)
# Clips of three frames, as for the second phases: the RPN learns from all of them.
THREE_FRAMES = (
    "experiment=demo_baseline",
    "window=symmetric",
    "+data.temporal_dropout._target_=vodet.data.clips.sampling.TemporalDropout",
    "+data.temporal_dropout.past=1",
    "+data.temporal_dropout.future=1",
)
# Clips of six frames with a loss on each frame, starting at every second frame. The number of steps
# is the same as in the other rows, but a step has 48 frames with 48 losses instead of 32 with 16.
RECURRENT = (
    "window=single",
    "data.history.windows=5",
    "data.history.policy=previous",
    "data.losses_on=all",
    "data.clips_per_video=8",
    "data.batch_size=8",
)
CENTERNET = (
    "experiment=demo",
    "data.batch_size=16",
    "data.clips_per_video=null",
    "optimizer.lr=1e-3",
)
TABLES = {
    "centernet": [
        Row("none", (*CENTERNET, "model/fusion=none", "window=single"), ("single",)),
        Row("mean", (*CENTERNET, "model/fusion=mean"), ("previous",)),
        Row("stf", (*CENTERNET, "model/fusion=stf"), ("previous",)),
        Row(
            "fgfa",
            (
                *CENTERNET,
                "model/fusion=fgfa",
                "model.fusion.embedding_width=48",
                "model.fusion.flow_updates=3",
            ),
            ("previous",),
        ),
        Row("conv_gru", (*CENTERNET, "model/fusion=conv_gru", *RECURRENT), ("single",)),
    ],
    "two-stage": [
        Row("baseline", ("experiment=demo_baseline",), ("single",)),
        Row("baseline, three frames", THREE_FRAMES, ("single",)),
        Row(
            "SELSA, one phase",
            (*THREE_FRAMES, "model/head/fusion=selsa"),
            ("single", "causal", "symmetric"),
        ),
        second_phase("linking, max", "max", NO_HISTORY),
        second_phase("linking, adaptive", "adaptive", NO_HISTORY),
        second_phase("long-term attention", "long_term", OFTEN),
        second_phase("SLTnet: max + long-term", "sltnet", OFTEN),
        second_phase("SLTnet, no propagation", "sltnet", OFTEN, STATIC, GENTLE),
        second_phase("SLTnet, earlier key frames", "sltnet", OFTEN, *EARLIER),
        second_phase("SLTnet, boxes follow links", "sltnet", OFTEN, FOLLOW_LINKS, GENTLE),
        # The layers of SELSA replace the layers of the box head, so they must be trained.
        second_phase("SELSA", "selsa", NO_HISTORY, "model.frozen=[backbone,pyramid,head.rpn]"),
        second_phase("SELSA, double head", "selsa", NO_HISTORY, "model.head.refine=scores"),
    ],
    "one-stage": [
        Row("baseline", ("experiment=demo_one_stage",), ("single",)),
        *candidate_fusions("demo_yolov"),
    ],
    "detr": [
        Row("baseline", ("experiment=demo_detr",), ("single",)),
        *candidate_fusions("demo_query_attention"),
    ],
    "long-range": [
        Row("baseline", ("experiment=demo_baseline", LONG_RANGE), ("single",)),
        second_phase("linking, max", "max", LONG_RANGE, NO_HISTORY),
        second_phase("long-term attention", "long_term", *KEY_FRAMES),
        second_phase("SLTnet: max + long-term", "sltnet", *KEY_FRAMES),
    ],
    "one-stage-long-range": [
        Row("baseline", ("experiment=demo_one_stage", LONG_RANGE), ("single",)),
        second_phase("YOLOV", "yolov", LONG_RANGE, experiment="demo_yolov"),
        second_phase(
            "YOLOV, memory",
            "yolov_memory",
            *ONLY_MEMORY,
            experiment="demo_yolov",
            windows=("single",),
        ),
        second_phase(
            "long-term attention",
            "long_term",
            *ONLY_MEMORY,
            "model.head.fusion.attention.width=256",  # four heads; candidates have 64 features
            experiment="demo_yolov",
            windows=("single",),
        ),
    ],
}


def run(folder: Path, options: argparse.Namespace, *command: str) -> None:
    """Run a console script and write its output to the folder."""
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)


def train(row: Row, seed: int, base: Path | None, options: argparse.Namespace) -> Path:
    """Train once, from the checkpoint in ``base`` in a second phase, and return the folder."""
    folder: Path = options.output / f"{re.sub(r'[^A-Za-z]+', '_', row.name)}_{seed}"
    epochs = options.phase_epochs if row.is_second_phase else options.epochs
    overrides = [
        *row.overrides,
        f"seed={seed}",
        f"run_dir={folder}",
        f"trainer.max_epochs={epochs}",
        "trainer.limit_val_batches=0",
        f"trainer.precision={options.precision}",
        "trainer.enable_progress_bar=false",
        "callbacks.progress=null",
        "callbacks.best=null",
        *options.override,
    ]
    if row.is_second_phase:
        overrides += [f"init_from={base}/last.ckpt", f"data.batch_size={options.phase_batch_size}"]
    if not (folder / "metrics.json").exists():
        run(folder, options, "vodet-train", *overrides)
    return folder


def evaluate(folder: Path, window: str, options: argparse.Namespace) -> Found:
    """Evaluate a run with a window; return AP, AP50, and time and number of training steps."""
    output = folder / window
    if not (output / "eval.json").exists():
        command = ["vodet-eval", f"ckpt={folder}/last.ckpt", f"window={window}", f"output={output}"]
        run(folder, options, *command, "callbacks.progress=null", "data.num_workers=1")
    result = json.loads((output / "eval.json").read_text())
    report = json.loads((folder / "metrics.json").read_text())
    return {
        "AP": 100 * result["map"],
        "AP50": 100 * result["map_50"],
        "ms": 1000 * report["seconds_per_step"],
        "steps": report["steps"],
    }


def run_all(rows: Sequence[Row], options: argparse.Namespace) -> dict[tuple[str, str, int], Found]:
    """Train and evaluate every row with every seed, with several runs in parallel."""

    def one(row: Row, seed: int, base: Future[Path] | None) -> Path:
        folder = train(row, seed, base.result() if base else None, options)
        for window in row.windows:
            evaluate(folder, window, options)
        return folder

    folders: dict[tuple[str, int], Future[Path]] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in rows:  # baselines first, so that no job waits for a job behind it in the queue
            for seed in options.seeds:
                base = folders[rows[0].name, seed] if row.is_second_phase else None
                folders[row.name, seed] = pool.submit(one, row, seed, base)
    return {
        (row.name, window, seed): evaluate(folders[row.name, seed].result(), window, options)
        for row in rows
        for window in row.windows
        for seed in options.seeds
    }


def table_of(
    rows: Sequence[Row], found: dict[tuple[str, str, int], Found], options: argparse.Namespace
) -> Table:
    """Return a table with a line for each row and window, and its gain over the first row."""
    seeds, metric, other = options.seeds, options.metric, {"AP": "AP50", "AP50": "AP"}
    first = rows[0]
    table = Table(title="COCO AP on the generated validation videos")
    columns = ("fusion", "window", *(f"{metric} seed {seed}" for seed in seeds), metric)
    for column in (*columns, f"{metric} - {first.name}, by seed", "mean", other[metric], "ms/step"):
        table.add_column(column, justify="left" if column in ("fusion", "window") else "right")
    bases = [found[first.name, first.windows[0], seed][metric] for seed in seeds]
    for row in rows:
        for window in row.windows:
            runs = [found[row.name, window, seed] for seed in seeds]
            gains = [own[metric] - base for own, base in zip(runs, bases, strict=True)]
            table.add_row(
                row.name,
                window,
                *(f"{own[metric]:.1f}" for own in runs),
                f"{mean(own[metric] for own in runs):.1f}",
                " ".join(f"{gain:+.1f}" for gain in gains),
                f"{mean(gains):+.1f}",
                f"{mean(own[other[metric]] for own in runs):.1f}",
                f"{mean(own['ms'] for own in runs):.0f}",
            )
    return table


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("override", nargs="*", help="further overrides of every training")
    parser.add_argument("--detector", choices=TABLES, default="centernet")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these and the first")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--metric", choices=["AP", "AP50"], default="AP")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--phase-epochs", type=int, default=3, help="epochs of a second phase")
    parser.add_argument("--phase-batch-size", type=int, default=8, help="clips in a second phase")
    parser.add_argument("--precision", default="32-true", help="or bf16-mixed")
    parser.add_argument("--jobs", type=int, default=2, help="number of parallel runs")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/fusion_gain"), help="folder that keeps the runs"
    )
    options = parser.parse_args()

    rows = TABLES[options.detector]
    if options.rows:
        rows = [row for row in rows if row is rows[0] or row.name in options.rows]
    options.output = options.output / options.detector
    found = run_all(rows, options)
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table_of(rows, found, options))
    steps = [found[row.name, row.windows[0], options.seeds[0]]["steps"] for row in rows]
    console.print(
        f"{steps[0]} steps, in the last row {steps[-1]}; precision {options.precision}, "
        f"{options.jobs} parallel runs with {options.threads} threads each, "
        f"overrides {options.override}"
    )


if __name__ == "__main__":
    main()
