"""Shows the progress of training or evaluation: a bar on a terminal, plain lines in a file."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from torch import Tensor

from vodet.tasks.detection import VideoDetectionTask


def progress(seconds: int | float = 60.0) -> ProgressBar:
    """Return a callback that shows a progress bar on a terminal, or prints plain lines elsewhere.

    Args:
        seconds: Minimum time between two plain lines within an epoch, in seconds.
    """
    return EpochBar() if sys.stdout.isatty() else ProgressLines(seconds)


class EpochBar(RichProgressBar):
    """Lightning's `RichProgressBar`, which counts epochs from 1."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {_of(current_epoch + 1, self.trainer.max_epochs)}"


class ProgressLines(ProgressBar):
    """Prints plain lines: one at the start, one per epoch, and one every ``seconds`` in between.

    The lines have no control codes and are flushed at once, so they are readable in the output file
    of nohup or a cluster job.

    Args:
        seconds: Minimum time between two lines within an epoch, in seconds.
    """

    def __init__(self, seconds: int | float = 60.0) -> None:
        super().__init__()
        self._seconds = seconds
        self._is_enabled = True
        self._started = self._printed = self._epoch_started = time.monotonic()
        self._first_batch = 0  # number of batches trained before this start, if it is a resume
        self._loss: Tensor | float = 0.0  # sum over the batches of the epoch
        self._batches = 0  # number of batches in the epoch so far
        self._is_evaluated = False  # whether the epoch has had an evaluation

    def disable(self) -> None:
        """Stop printing. Lightning calls this on all processes except the first."""
        self._is_enabled = False

    def enable(self) -> None:
        """Resume printing."""
        self._is_enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print the arguments and flush the output, unless printing is disabled."""
        if self._is_enabled:
            sys.stdout.write(" ".join(map(str, args)) + "\n")
            sys.stdout.flush()
        self._printed = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the run folder, the numbers of clips and parameters, and the classes."""
        self._started = time.monotonic()
        self._first_batch = self._batches_done(trainer)
        sizes = [weight.numel() for weight in pl_module.parameters() if weight.requires_grad]
        facts = [
            _counted(len(_data_of(trainer.train_dataloader)), "clip"),
            f"{trainer.num_training_batches} batches per epoch",
            f"{sum(sizes):,} trained parameters",
        ]
        if isinstance(pl_module, VideoDetectionTask):
            names = pl_module.detector.class_names
            facts.insert(1, f"{_counted(len(names), 'class', 'classes')} ({_listed(names)})")
        self.print(f"Training in {trainer.default_root_dir}: {', '.join(facts)}")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the timer and the mean loss for the new epoch."""
        self._epoch_started = time.monotonic()
        self._loss, self._batches = 0.0, 0
        self._is_evaluated = False

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Print the batch number, loss and speed if ``seconds`` have passed since the last line."""
        self._loss = self._loss + outputs["loss"]
        self._batches += 1
        if time.monotonic() - self._printed < self._seconds:
            return
        rate = self._batches / (time.monotonic() - self._epoch_started)
        self.print(
            f"Epoch {_of(trainer.current_epoch + 1, trainer.max_epochs)}, "
            f"batch {_of(batch_idx + 1, trainer.num_training_batches)}: "
            f"loss {self._mean_loss(trainer):.4g}, "
            f"{rate:.3g} batches/s, step {trainer.global_step}{self._time_left(trainer)}"
        )

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print the chunk number if ``seconds`` have passed since the last line."""
        if time.monotonic() - self._printed >= self._seconds:
            total = trainer.num_val_batches[0]
            self.print(f"Evaluation: chunk {_of(batch_idx + 1, total)}")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record that the epoch had an evaluation, so that its last line shows the metric."""
        self._is_evaluated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the mean loss and the duration of the epoch, and the metric if it was evaluated."""
        parts = [f"loss {self._mean_loss(trainer):.4g}"]
        if self._is_evaluated and isinstance(pl_module, VideoDetectionTask):
            name = f"val/{pl_module.best_by}"
            if name in trainer.callback_metrics:
                parts.append(f"{name} {float(trainer.callback_metrics[name]):.4f}")
        parts.append(_duration(time.monotonic() - self._epoch_started))
        self.print(
            f"Epoch {_of(trainer.current_epoch + 1, trainer.max_epochs)} done: {', '.join(parts)}, "
            f"step {trainer.global_step}{self._time_left(trainer)}"
        )

    def _mean_loss(self, trainer: L.Trainer) -> float:
        """Return the mean loss of the epoch; undo Lightning's division by accumulated batches."""
        return float(self._loss) / max(self._batches, 1) * trainer.accumulate_grad_batches

    def _batches_done(self, trainer: L.Trainer) -> int:
        return trainer.fit_loop.epoch_loop.total_batch_idx + 1

    def _time_left(self, trainer: L.Trainer) -> str:
        """Return the estimated time to the end of training as text, or "" if it is unknown."""
        done = self._batches_done(trainer)
        ends = []
        if trainer.max_epochs not in (None, -1):
            ends.append(trainer.max_epochs * trainer.num_training_batches)
        if trainer.max_steps != -1:
            ends.append(trainer.max_steps * trainer.accumulate_grad_batches)
        if not ends or min(ends) == float("inf") or done <= self._first_batch:
            return ""
        seconds = (time.monotonic() - self._started) / (done - self._first_batch)
        return f", {_duration(seconds * max(min(ends) - done, 0))} left"


def _data_of(loader: Any) -> Any:
    return getattr(loader, "dataset", loader)


def _of(number: int, total: int | float | None) -> str:
    is_known = total not in (None, -1, float("inf"))
    return f"{number}/{total}" if is_known else str(number)


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _listed(names: tuple[str, ...], most: int = 8) -> str:
    return ", ".join([*names[:most], *([f"and {len(names) - most} more"] * (len(names) > most))])


def _duration(seconds: float) -> str:
    minutes, seconds_left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds_left} s" if minutes else f"{seconds_left} s"
