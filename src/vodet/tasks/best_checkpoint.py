"""The checkpoint of the best evaluation of a training run."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class BestCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, but without saving if the monitored metric is NaN.

    The AP of data without objects is NaN. Lightning would treat the first such evaluation as the
    best so far, and keep the weights of the first epoch as the best.
    """

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Return whether the evaluation is one of the best so far."""
        if current is not None and current.isnan():
            return False
        return super().check_monitor_top_k(trainer, current)
