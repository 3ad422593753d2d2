"""Builds Lightning's trainer from the config, and turns errors in training into vodet errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from omegaconf import DictConfig

from vodet.data.clips.datamodule import killed_worker
from vodet.errors import ConfigError, OutputError, VodetError
from vodet.tasks.checkpoint import AtomicCheckpointIO
from vodet.tasks.precision import check_precision
from vodet.tasks.signals import OwnSignalHandler

_EXTRAS = ("wandb", "mlflow")  # extras in pyproject.toml with the names of their loggers


def build_trainer(config: DictConfig, *callbacks: Callback) -> L.Trainer:
    """Build the trainer with the loggers and callbacks of the config and additional callbacks.

    Raises:
        ConfigError: If the trainer cannot be built, for example without the GPUs it asks for.
    """
    check_precision(config.trainer.precision)
    switches = {
        ProgressBar: config.trainer.enable_progress_bar,
        Checkpoint: config.trainer.enable_checkpointing,
    }
    off = tuple(kind for kind, is_on in switches.items() if not is_on)
    wanted = [callback for callback in built(config, "callbacks") if not isinstance(callback, off)]
    try:
        trainer: L.Trainer = instantiate(
            config.trainer,
            callbacks=[*wanted, *callbacks, OwnSignalHandler()],
            logger=built(config, "logger") if config.trainer.logger else False,
            plugins=[AtomicCheckpointIO()],
        )
    except Exception as error:
        reason = error.__cause__ or error
        if not isinstance(reason, MisconfigurationException | ValueError):
            raise
        accelerator, devices = config.trainer.accelerator, config.trainer.devices
        msg = (
            f"The trainer cannot be built: {reason} The config sets "
            f"trainer.accelerator={accelerator} and trainer.devices={devices}; this machine has "
            f"{torch.cuda.device_count()} GPUs. trainer=cpu runs anywhere."
        )
        raise ConfigError(msg) from error
    return trainer


def built(config: DictConfig, group: str) -> list[Any]:
    """Build all objects of a config group with several entries, such as ``callbacks``.

    Entries that are null are left out.

    Raises:
        ConfigError: If an entry needs a package that is not installed.
    """
    entries = config.get(group) or {}
    return [_built(f"{group}.{name}", entry) for name, entry in entries.items() if entry]


def _built(key: str, entry: DictConfig) -> Any:
    try:
        return instantiate(entry)
    except Exception as error:
        reason = error.__cause__ or error
        if not isinstance(reason, ModuleNotFoundError):
            raise
        extra = key.rpartition(".")[2]
        known = f"run pip install 'vodet[{extra}]'."
        advice = known if extra in _EXTRAS else f"install it. ({reason})"
        msg = f"{key} needs a package that is not installed: {advice}"
        raise ConfigError(msg) from error


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Within this context, raise vodet errors for errors that a user can fix.

    Args:
        folder: The folder in which the training or evaluation writes its files.

    Raises:
        OutputError: If a file cannot be written, for example on a full disk.
        DataError: If the system has killed a worker process of a data loader.
    """
    try:
        yield
    except (VodetError, ConnectionError):
        raise
    except OSError as error:
        msg = f"Cannot write in {folder}: {error}. Check the free space and the permissions."
        raise OutputError(msg) from error
    except RuntimeError as error:  # torch raises it at any point in the main process
        if killed := killed_worker(error):
            raise killed from error
        raise
