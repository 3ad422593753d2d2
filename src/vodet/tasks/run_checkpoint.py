"""Callbacks that save the checkpoints of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class RunCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint` for a run whose folder may be moved before it is resumed.

    Lightning would forget the best score of a moved run and overwrite its best checkpoint with the
    next checkpoint, even if that is worse.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of the callback. If the run was moved, all paths are updated."""
        before = state_dict.get("dirpath")
        if isinstance(before, str) and self.dirpath is not None and before != self.dirpath:
            moved = _moved(state_dict, before, str(self.dirpath))
            if Path(moved.get("best_model_path", "")).is_file():
                state_dict = moved
        super().load_state_dict(state_dict)


def _moved(value: Any, before: str, now: str) -> Any:
    """Return a nested value in which paths in the folder ``before`` are in the folder ``now``."""
    if isinstance(value, dict):
        return {_moved(k, before, now): _moved(v, before, now) for k, v in value.items()}
    if isinstance(value, str) and Path(value).is_relative_to(before):
        return str(Path(now, Path(value).relative_to(before)))
    return value


class BestCheckpoint(RunCheckpoint):
    """A `RunCheckpoint` that does not save if the monitored metric is NaN.

    The AP of data without objects is NaN. Lightning would treat the first such evaluation as the
    best so far, and keep the weights of the first epoch as the best.
    """

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Return whether the metric is among the best so far, which NaN never is."""
        if current is not None and current.isnan():
            return False
        return super().check_monitor_top_k(trainer, current)
