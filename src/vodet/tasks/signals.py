"""Handles signals during training and evaluation."""

from __future__ import annotations

import signal

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher


class OwnSignalHandler(Callback):
    """Keeps the program's own SIGTERM handler instead of Lightning's.

    Lightning's handler is unsuitable: it finishes the batch, communicates with processes that may
    have ended, and exits with status 0, as if training had succeeded.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Store the program's SIGTERM handler before Lightning replaces it."""
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the program's SIGTERM handler."""
        signal.signal(signal.SIGTERM, self._handler)

    on_validation_start = on_train_start

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """If a signal stops this process, also stop the training processes that it started."""
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher) and not isinstance(exception, Exception):
            launcher.kill(signal.SIGTERM)
