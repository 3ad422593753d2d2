"""What the Hydra commands share: where conf/ is, and errors that a user can act on."""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from vodet.cli.experiments import own_config_dirs, register_experiments
from vodet.cli.explain import explain
from vodet.errors import ConfigError
from vodet.screen import Screen


def config_dir() -> Path:
    """Return the folder of the configs: in an installed package, else in the repository."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def run(config_name: str, command: Callable[[DictConfig], None]) -> None:
    """Compose ``config_name`` with the command line and call ``command`` with the result.

    A user's mistake ends the process with status 1 and a message instead of a traceback.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors to us instead of printing them
    _hush()
    register_experiments(config_dir(), *own_config_dirs(sys.argv[1:]))
    app = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)
    # Twice, since Hydra would print all overrides above an error of the command.
    checked = _explained(_with_all_values(command), config_name)
    _explained(app(checked), config_name)()


def _explained(function: Callable[..., None], config_name: str) -> Callable[..., None]:
    @wraps(function)
    def explained(*arguments: Any) -> None:
        try:
            function(*arguments)
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            message = explain(error, sys.argv[1:], partial(_compose, config_name))
            if message is None:
                raise
        else:
            return
        Screen(stderr=True).error(message)
        # What the error held goes now: at the end of the interpreter torch would abort over it.
        gc.collect()
        sys.exit(1)

    return explained


def _with_all_values(command: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    @wraps(command)
    def checked(config: DictConfig) -> None:
        if missing := sorted(OmegaConf.missing_keys(config)):
            msg = f"No value is given for {', '.join(missing)}. Set each: {missing[0]}=VALUE."
            raise ConfigError(msg)
        command(config)

    return checked


def _compose(config_name: str, overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()  # the command, which it was for, has ended
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra.compose(config_name, overrides)


def _hush() -> None:
    """Keep Lightning's advertisement, and its notes on its own workings, from the user."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "pypi.org/project/lit" not in record.getMessage()
    )
    notes = ("LeafSpec", "exists and is not empty", "logging interval", "in eval mode at the start")
    for note in notes:
        warnings.filterwarnings("ignore", f".*{note}")
