"""What temporal fusion is worth: fusions trained alike on the generated set, several seeds each.

Every run is one `vodet-train experiment=demo` that differs from the others in its fusion and seed
alone (`none` sees the reference frame only), evaluated after its last epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

Results = dict[tuple[str, int], dict[str, float]]


def train(fusion: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train and evaluate once; return AP, AP50 and the median time of a step."""
    folder = options.output / f"{fusion}_{seed}"
    report = folder / "metrics.json"
    if not report.exists():
        command = [
            *("vodet-train", "experiment=demo", f"model/fusion={fusion}", f"seed={seed}"),
            f"window={'single' if fusion == 'none' else options.window}",
            f"run_dir={folder}",
            f"trainer.max_epochs={options.epochs}",
            f"trainer.check_val_every_n_epoch={options.epochs}",
            f"trainer.precision={options.precision}",
            "trainer.enable_progress_bar=false",
            "callbacks.progress=null",
            *options.override,
        ]
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w") as log:
            subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)
    read = json.loads(report.read_text())
    return {
        "AP": 100 * read["last"]["val/map"],
        "AP50": 100 * read["last"]["val/map_50"],
        "ms": 1000 * read["seconds_per_step"],
        "steps": read["steps"],
    }


def table_of(results: Results, fusions: Sequence[str], seeds: Sequence[int]) -> Table:
    """One row a fusion: AP of each seed, means, and the paired differences to the first fusion."""
    first = fusions[0]
    table = Table(title="COCO AP on the generated validation videos")
    for column in ("fusion", *(f"AP seed {seed}" for seed in seeds), "AP", "AP50"):
        table.add_column(column, justify="left" if column == "fusion" else "right")
    table.add_column(f"AP - {first}, by seed", justify="right")
    table.add_column("mean", justify="right")
    table.add_column("ms/step", justify="right")
    for fusion in fusions:
        runs = [results[fusion, seed] for seed in seeds]
        gains = [
            run["AP"] - results[first, seed]["AP"] for run, seed in zip(runs, seeds, strict=True)
        ]
        table.add_row(
            fusion,
            *(f"{run['AP']:.1f}" for run in runs),
            f"{mean(run['AP'] for run in runs):.1f}",
            f"{mean(run['AP50'] for run in runs):.1f}",
            " ".join(f"{gain:+.1f}" for gain in gains),
            f"{mean(gains):+.1f}",
            f"{mean(run['ms'] for run in runs):.0f}",
        )
    return table


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("override", nargs="*", help="further overrides of every run")
    parser.add_argument("--fusions", nargs="+", default=["none", "mean", "stf"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--window", default="previous", help="window of all but none")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--precision", default="32-true", help="or bf16-mixed")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/fusion_gain"), help="finished runs are kept there"
    )
    options = parser.parse_args()

    runs = [(fusion, seed) for seed in options.seeds for fusion in options.fusions]
    console = Console(width=None if sys.stdout.isatty() else 120)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = dict(zip(runs, pool.map(lambda run: train(*run, options), runs), strict=True))
    console.print(table_of(results, options.fusions, options.seeds))
    steps = max(int(result["steps"]) for result in results.values())
    console.print(
        f"{steps} steps in {options.epochs} epochs, window {options.window}, precision "
        f"{options.precision}, {options.jobs} runs at a time with {options.threads} threads each, "
        f"overrides {options.override}"
    )


if __name__ == "__main__":
    main()
