"""A callback that users could write, for tests to look into a training."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback


class Snapshots(Callback):
    """Saves a checkpoint at the start and after each epoch, and what each process has in the end.

    Args:
        folder: Destination of ``start.ckpt``, ``epoch_<number>.ckpt`` and ``process_<rank>.pt``.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.save_checkpoint(self.folder / "start.ckpt")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"epoch_{trainer.current_epoch}.ckpt")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parameters = {name: value.detach() for name, value in pl_module.named_parameters()}
        torch.save(parameters, self.folder / f"process_{trainer.global_rank}.pt")


def snapshots(folder: Path | str) -> tuple[str, str]:
    """Overrides that save them in a folder."""
    return (
        "+callbacks.snapshots._target_=cli.snapshots.Snapshots",
        f"+callbacks.snapshots.folder={folder}",
    )
