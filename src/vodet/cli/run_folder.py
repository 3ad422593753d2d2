"""Protects the folder of a training run from a second process and from other runs."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf

from vodet.errors import ConfigError
from vodet.files import remove_partial, replacing
from vodet.tasks.checkpoint import CARD_KEY, read_checkpoint

_log = logging.getLogger(__name__)

# The checkpoint restores these settings or was trained with them. Other values would have no
# effect, or harm the training.
_FIXED = ("model", "window", "optimizer", "scheduler")
_START_KEYS = ("run_dir", "resume", "init_from")  # do not affect the training itself


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Lock a folder against other training processes.

    The operating system releases the lock if the process dies.

    Raises:
        ConfigError: If another process is training in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        owner = Path(lock.lock_file).read_text() or "another process"
        msg = (
            f"run_dir={folder} is in use by {owner}, which is training in it. Wait until the "
            "training ends, stop it, or choose another run_dir."
        )
        raise ConfigError(msg) from error
    try:
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        Path(lock.lock_file).write_text(owner)
        remove_partial(folder)
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def check_empty(folder: Path) -> None:
    """Check that a new run would not overwrite the checkpoints of another run.

    Raises:
        ConfigError: If the folder has checkpoints.
    """
    if found := sorted(path.name for path in folder.glob("*.ckpt") if path.is_file()):
        msg = (
            f"run_dir={folder} has the checkpoints of another run: {', '.join(found)}. Continue "
            f"that run with resume={folder / found[-1]}, choose another run_dir, or delete the "
            "folder."
        )
        raise ConfigError(msg)


def find_checkpoint(config: DictConfig) -> Path | None:
    """Return the checkpoint that ``resume`` names, or None if ``resume`` is not set.

    Also sets ``run_dir`` in the config to the folder of the checkpoint, where the run continues.

    Raises:
        ConfigError: If the checkpoint does not exist, or other settings contradict ``resume``.
    """
    if config.resume is None:
        return None
    if config.init_from is not None:
        msg = (
            f"Expected resume or init_from, found both: resume={config.resume} continues an old "
            f"run, init_from={config.init_from} starts a new run from the weights of a checkpoint. "
            "Set only one of them."
        )
        raise ConfigError(msg)
    is_given = not OmegaConf.is_interpolation(config, "run_dir")
    checkpoint = _newest(config, is_given) if config.resume == "last" else Path(config.resume)
    if not checkpoint.is_file():
        msg = f"resume={config.resume}: expected 'last' or a checkpoint file, found no such file."
        raise ConfigError(msg)
    if is_given and Path(config.run_dir).resolve() != checkpoint.parent.resolve():
        msg = (
            f"resume={config.resume} continues the run in {checkpoint.parent}, the folder of the "
            f"checkpoint; found run_dir={config.run_dir}. Do not set run_dir."
        )
        raise ConfigError(msg)
    config.run_dir = str(checkpoint.parent)
    return checkpoint


def _newest(config: DictConfig, is_given: bool) -> Path:
    runs = Path(config.run_dir) if is_given else Path(config.runs_dir, str(config.name))
    found = list(runs.glob("last.ckpt") if is_given else runs.rglob("last.ckpt"))
    if not found:
        msg = (
            f"resume=last: expected a run with a last.ckpt in {runs}, found none. The first "
            "last.ckpt is written at the end of the first epoch. Start again without resume."
        )
        raise ConfigError(msg)
    return max(found, key=lambda path: path.stat().st_mtime)


def check_resumable(config: DictConfig, checkpoint: Path) -> dict[str, Any]:
    """Return the settings that have changed since a checkpoint was written.

    Raises:
        ConfigError: If a setting has changed that must stay the same throughout a run.
        CheckpointError: If the checkpoint cannot be read.
    """
    before = _flat(read_checkpoint(checkpoint)[CARD_KEY]["config"] or {})
    now = _flat(OmegaConf.to_container(config, resolve=True))
    if not before:  # the task that wrote the checkpoint had no config
        return {}
    changed = {key: value for key, value in now.items() if before.get(key) != value}
    changed |= {key: None for key in before if key not in now}
    set_by_user = {key: value for key, value in changed.items() if not _follows(key, config)}
    if fixed := [key for key in set_by_user if key.partition(".")[0] in _FIXED]:
        lines = [f"\n  {key}: {before.get(key)} in the run, {now.get(key)} now" for key in fixed]
        more = f"\n  and {len(lines) - 10} more" if len(lines) > 10 else ""
        msg = (
            f"resume={checkpoint} continues a run, so {', '.join(_FIXED)} must stay the same; "
            f"found {len(fixed)} changed values:{''.join(lines[:10])}{more}\nUse the settings of "
            f"the run, or start a new run with init_from={checkpoint}."
        )
        raise ConfigError(msg)
    for key in changed.keys() - set_by_user.keys():
        if key.partition(".")[0] == "scheduler":
            message = "%s keeps its value %s, not %s: a resumed run keeps its schedule."
            _log.warning(message, key, before.get(key), now.get(key))
    return {key: value for key, value in set_by_user.items() if key not in _START_KEYS}


def _flat(config: Any, key: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by dotted key."""
    if not isinstance(config, Mapping):
        return {key: config}
    return {
        name: value
        for part, below in config.items()
        for name, value in _flat(below, f"{key}.{part}" if key else str(part)).items()
    }


def _follows(key: str, config: DictConfig) -> bool:
    """Return whether a value of a config is computed from other settings.

    Args:
        key: Dotted key of the value, such as ``scheduler.scheduler.T_max``.
        config: The config, with its interpolations.
    """
    texts = _flat(OmegaConf.to_container(config, resolve=False))
    return any(
        isinstance(text, str) and "${" in text and f"{key}.".startswith(f"{name}.")
        for name, text in texts.items()
    )


class RunRecord(Callback):
    """Writes ``config.yaml`` when a run starts, and adds to ``resumes.yaml`` when it is resumed.

    Args:
        config: The config of the run.
        changes: In a resumed run, the settings that differ from the checkpoint; None in a new run.
    """

    def __init__(self, config: DictConfig, changes: dict[str, Any] | None = None) -> None:
        self._config = config
        self._changes = changes
        self._folder = Path(config.run_dir)
        self.has_begun = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write ``config.yaml`` or add to ``resumes.yaml``, in the first process."""
        self.has_begun = True
        if not trainer.is_global_zero or self._config.trainer.fast_dev_run:
            return
        if self._changes is None:
            with replacing(self._folder / "config.yaml") as partial:
                OmegaConf.save(self._config, partial, resolve=True)
            return
        path = self._folder / "resumes.yaml"
        entry = {
            "time": datetime.now().astimezone().isoformat(timespec="seconds"),
            "checkpoint": str(trainer.ckpt_path),
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "changes": self._changes,
        }
        earlier = path.read_text() if path.is_file() else ""
        with replacing(path) as partial:
            partial.write_text(earlier + OmegaConf.to_yaml(OmegaConf.create([entry])))
