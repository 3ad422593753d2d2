"""The checkpoint of the best evaluation of a training."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class BestCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which saves nothing for an evaluation without a number.

    The AP of data without objects is NaN. Lightning would take the first such evaluation for the
    best so far, and leave the weights of the first epoch as the best of all.
    """

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Return whether the evaluation is one of the best so far."""
        if current is not None and current.isnan():
            return False
        return super().check_monitor_top_k(trainer, current)
