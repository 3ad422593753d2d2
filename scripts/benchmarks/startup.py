"""Compares the time that commands need to start with the time of their imports alone.

    python scripts/benchmarks/startup.py --folder WORK

The help of every command, and the error for a mistyped key, are compared with `import hydra`. The
time until the first batch of a training run is compared with its imports and building its detector.
The training is experiment=demo on the CPU, in WORK, with a data set that is generated beforehand.
The processes of a round run one after the other. The table shows medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

START = "import sys; sys.argv[0] = 'vodet'; from vodet.cli.main import {0}; {0}()"
HYDRA = ("import hydra", [])
TRAINING = (
    """
import os
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import torch, lightning, timm, albumentations, cv2
import hydra
from vodet.cli.app import config_dir
with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
    config = hydra.compose("train", ["experiment=demo"])
hydra.utils.instantiate(config.model, class_names=list("abcdef"))
""",
    [],
)
SETTINGS = [
    "experiment=demo",
    "trainer=cpu",
    "trainer.max_steps=1",
    "trainer.limit_val_batches=0",
    "data.num_workers=0",
    "run_dir=run",
    "callbacks.best=null",
]
Program = tuple[str, list[str]]


def until_the_end(program: Program, folder: Path) -> float:
    """Return the seconds that a program runs."""
    code, arguments = program
    start = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return time.perf_counter() - start


def until_the_first_batch(folder: Path) -> float:
    """Return the seconds from the start of a training run to the start of its first batch."""
    callback = folder / "first_batch.py"
    callback.write_text(
        "import os\nfrom lightning.pytorch.callbacks import Callback\n"
        "class Stop(Callback):\n    def on_train_batch_start(self, *_): os._exit(3)\n"
    )
    start = time.perf_counter()
    ended = subprocess.run(
        [
            *(sys.executable, "-c", START.format("train"), *SETTINGS),
            "+callbacks.first_batch._target_=first_batch.Stop",
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path[1:]])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 3, ended.stderr
    return time.perf_counter() - start


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder to work in")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    until_the_first_batch(folder)  # generates the data set

    measured = {"import hydra": lambda: until_the_end(HYDRA, folder)}
    for name in ("train", "evaluate", "predict", "data"):
        program = START.format(name), ["--help"]
        measured[f"{name} --help"] = lambda program=program: until_the_end(program, folder)
    mistyped = START.format("train"), ["sed=1"]
    measured["a mistyped key"] = lambda: until_the_end(mistyped, folder)
    measured["imports and detector"] = lambda: until_the_end(TRAINING, folder)
    measured["first batch of a training"] = lambda: until_the_first_batch(folder)
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(options.rounds):
        for name, measure in measured.items():
            seconds[name].append(measure())

    settings = f"median of {options.rounds}, load {os.getloadavg()[0]:.1f}"
    title = f"Python {sys.version.split()[0]}, {settings}"
    table = Table("what", "seconds", "ratio", title=title)
    base = ""
    for name, times in seconds.items():
        if name in {"import hydra", "imports and detector"}:
            base = name
        ratio = median(times) / median(seconds[base])
        table.add_row(name, f"{median(times):.2f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
