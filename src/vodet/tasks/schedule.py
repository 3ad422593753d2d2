"""Learning rate schedules: any schedule of torch with a linear warm-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler

from vodet.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """A schedule of the learning rate: a linear warm-up multiplied by any schedule of torch.

    Args:
        scheduler: Builds the schedule of torch for an optimizer.
        interval: Whether the schedule advances with each step or each epoch.
        warmup_steps: Number of steps in which the learning rate rises linearly; 0 for no warm-up.
        warmup_start: Factor by which the learning rate is multiplied at the first step.
    """

    scheduler: Callable[[Optimizer], LRScheduler]
    interval: Literal["step", "epoch"] = "epoch"
    warmup_steps: int = 100
    warmup_start: float = 0.1

    def __call__(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """Return the warm-up and the schedule as Lightning configs; their factors multiply.

        Raises:
            ConfigError: If the schedule needs the number of epochs, and the trainer has no limit.
        """
        configs = []
        if self.warmup_steps:
            warmup = LinearLR(optimizer, self.warmup_start, total_iters=self.warmup_steps)
            configs.append({"scheduler": warmup, "interval": "step"})
        scheduler = self.scheduler(optimizer)
        epochs = getattr(scheduler, "T_max", 1)
        if epochs < 1:
            msg = (
                f"scheduler.scheduler.T_max must be at least 1, found {epochs}. Set it to the "
                "number of epochs, since trainer.max_epochs sets no limit, or use "
                "scheduler=constant."
            )
            raise ConfigError(msg)
        return [*configs, {"scheduler": scheduler, "interval": self.interval}]
