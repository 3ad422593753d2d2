"""Writes the files of a finished training, metrics.json and curves.png, and saves detections."""

from __future__ import annotations

import csv
import json
import math
import re
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vodet.files import replacing
from vodet.metrics.results_file import write_predictions
from vodet.tasks.detection import VideoDetectionTask

Curve = list[tuple[int, float]]

_OVERALL_AP = r"val/(map\w*|(vid|uavdt)/m?ap_\d+)"


class TrainingReport(Callback):
    """Writes ``metrics.json`` and ``curves.png`` at the end of training.

    The curves are read from the CSV logs of the run: ``csv/version_0/metrics.csv`` and one more
    file for each time the training was resumed.

    Args:
        run_dir: Folder of the run.
    """

    def __init__(self, run_dir: str) -> None:
        self._run_dir = Path(run_dir)
        self._started = time.monotonic()
        self._step_started = self._started
        self._step_seconds: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start measuring the duration of the training."""
        self._started = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start measuring the duration of the first step of the epoch."""
        self._step_started = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_args: Any
    ) -> None:
        """Record the duration of the step, including the loading of its data."""
        now = time.monotonic()
        self._step_seconds.append(now - self._step_started)
        self._step_started = now

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write ``metrics.json`` and ``curves.png`` on the first process."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined] # set in its constructor
            return
        for logger in trainer.loggers:
            logger.save()
        with replacing(self._run_dir / "metrics.json") as partial:
            partial.write_text(json_text(self._summary(trainer)))
        curves = read_curves(sorted(self._run_dir.glob("csv/version_*/metrics.csv")))
        with replacing(self._run_dir / "curves.png") as partial:
            draw_curves(curves).savefig(partial, format="png", dpi=120)

    def _summary(self, trainer: L.Trainer) -> dict[str, Any]:
        best = [
            callback
            for callback in trainer.checkpoint_callbacks
            if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None
        ]
        return {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seconds": round(time.monotonic() - self._started, 1),
            "seconds_per_step": median(self._step_seconds),
            "last": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "best": {
                f"{callback.monitor}": float(callback.best_model_score)  # type: ignore[arg-type] # not None above
                for callback in best
            },
        }


class PredictionsFile(Callback):
    """Writes the detections of an evaluation to a COCO results file.

    Args:
        path: The file to write, ``.json`` or ``.json.gz``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the detections of all processes and write them on the first process."""
        if not isinstance(pl_module, VideoDetectionTask) or pl_module.evaluator is None:
            return
        processed = pl_module.evaluator.gather()
        if processed is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_predictions(self._path, pl_module.evaluator.ground_truth, processed[1])


def json_text(values: dict[str, Any]) -> str:
    """Format values as JSON. NaN, such as the AP of a class without objects, becomes null."""
    return json.dumps(_finite(values), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_curves(files: list[Path]) -> dict[str, Curve]:
    """Return the ``(step, value)`` pairs of each metric in CSV logs, sorted by step.

    A training that was killed and resumed logs some steps twice. The value in the later file is
    used.
    """
    curves: dict[str, dict[int, float]] = {}
    for file in files:
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                step = int(row.pop("step"))
                for name, value in row.items():
                    if value:
                        curves.setdefault(name, {})[step] = float(value)
    return {name: sorted(curve.items()) for name, curve in curves.items()}


def draw_curves(curves: dict[str, Curve]) -> Figure:
    """Return a figure with the losses on the left and the APs over all classes on the right."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, {n: c for n, c in curves.items() if n.startswith("train/loss")}, "loss", None)
    _draw(right, {n: c for n, c in curves.items() if re.fullmatch(_OVERALL_AP, n)}, "AP", "o")
    left.set_yscale("log")
    right.set_ylim(0, 1)
    return figure


def _draw(axes: Axes, curves: dict[str, Curve], label: str, marker: str | None) -> None:
    for name, curve in curves.items():
        steps, values = zip(*curve, strict=True)
        axes.plot(steps, values, label=name, marker=marker, markersize=3, linewidth=1)
    axes.set(xlabel="step", ylabel=label)
    axes.grid(alpha=0.3)
    if curves:
        axes.legend(fontsize=8)
