"""Runs the Hydra commands: finds conf/, composes the config and reports errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from vodet.cli.ending import AGAIN, run_command
from vodet.cli.experiments import own_config_dirs, register_experiments
from vodet.errors import ConfigError

Command = Callable[[DictConfig], None]


class _Failed(BaseException):
    """Wraps an error of a command, so that Hydra does not print all overrides above the message."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def config_dir() -> Path:
    """Return the folder conf/ of the installed package, or of the repository in a source tree."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def run(
    config_name: str, command: Command, how_to_continue: Callable[[DictConfig], str] | None = None
) -> None:
    """Compose the config from a file of conf/ and the command line, and run the command with it.

    On an error that the user can fix, the process prints a message and exits with status 1. On a
    signal, it prints a message and exits with status 128 + the signal number.

    Args:
        config_name: Name of the command's file in conf/, without suffix, such as ``train``.
        command: The function to call with the config.
        how_to_continue: Returns the message to print after a signal has stopped the command.
    """
    configs: list[DictConfig] = []

    def explained(error: Exception) -> str | None:
        from vodet.cli.explain import explain

        return explain(error, sys.argv[1:], partial(_compose, config_name))

    def job(config: DictConfig) -> None:
        configs.append(config)
        try:
            _check_values(config_name, config)
            command(config)
        except Exception as error:
            raise _Failed(error) from None

    status = run_command(
        partial(_run_hydra, config_name, job),
        explained,
        lambda: how_to_continue(configs[-1]) if configs and how_to_continue is not None else AGAIN,
    )
    if status:
        sys.exit(status)


def _run_hydra(config_name: str, job: Command) -> None:
    from vodet.cli.words import for_hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors instead of printing them
    _silence_lightning()
    sys.argv = [sys.argv[0], *for_hydra(sys.argv[1:])]
    register_experiments(config_dir(), *own_config_dirs(sys.argv[1:]))
    app = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)
    try:
        app(job)()
    except _Failed as failed:
        error = failed.error
    else:
        return
    raise error


def _check_values(config_name: str, config: DictConfig) -> None:
    from vodet.cli.words import TEXTS

    known: Any = OmegaConf.to_container(OmegaConf.load(config_dir() / f"{config_name}.yaml"))
    given: Any = OmegaConf.to_container(config)
    # An empty text would name the current folder.
    empty = {key for key in TEXTS if known.get(key) is not None and given.get(key) in (None, "")}
    if missing := sorted(OmegaConf.missing_keys(config) | empty):
        values = " ".join(f"{key}=VALUE" for key in missing)
        msg = f"No value is given for {', '.join(missing)}. Add to the command: {values}"
        raise ConfigError(msg)


def _compose(config_name: str, overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()  # the command that initialized Hydra has ended
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra.compose(config_name, overrides)


def _silence_lightning() -> None:
    """Hide Lightning's advertisement, and warnings that do not concern users of vodet."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "pypi.org/project/lit" not in record.getMessage()
    )
    notes = ("LeafSpec", "exists and is not empty", "logging interval", "in eval mode at the start")
    for note in notes:
        warnings.filterwarnings("ignore", f".*{note}")
