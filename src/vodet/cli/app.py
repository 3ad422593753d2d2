"""What the Hydra commands share: where conf/ is, and errors that a user can act on."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from vodet.errors import VodetError


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
    app = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(
        command
    )
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        message = explain(error, config_name)
        if message is None:
            raise
        Console(stderr=True, soft_wrap=True).print(f"[bold red]Error:[/] {_escape(message)}")
        sys.exit(1)


def _hush() -> None:
    """Keep Lightning's advertisement, and its notes on its own workings, from the user."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage()
    )
    for note in (".*LeafSpec.*", ".*exists and is not empty", ".*logging interval"):
        warnings.filterwarnings("ignore", note)


def explain(error: Exception, config_name: str) -> str | None:
    """Return what to tell the user of an error that is his to mend, else None."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, VodetError):
            return str(cause)
    for cause in causes:
        if isinstance(cause, MissingConfigException) and cause.options:
            return _unknown_choice(cause)
        if isinstance(cause, HydraException | OmegaConfBaseException):
            return _unknown_key(str(cause), config_name)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
    options = sorted(error.options or [])
    return (
        f"There is no {group}={choice}.{_did_you_mean(choice, options)} "
        f"Valid choices: {', '.join(options)}."
    )


def _unknown_key(message: str, config_name: str) -> str:
    """Add the nearest valid key to Hydra's message about an unknown one."""
    override = re.search(r"Could not override '([^']+)'", message)
    group = re.search(r"Could not override '([^'@]+)'\.\s*No match in the defaults", message)
    if override is None:
        return message
    key = override.group(1)
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose(config_name)
    parent, _, name = key.rpartition(".")
    siblings = OmegaConf.select(config, parent) if parent else config
    known = [str(k) for k in siblings] if isinstance(siblings, DictConfig) else []
    what = "group" if group else "config key"
    listed = f" Valid keys there: {', '.join(known)}." if known else ""
    return f"There is no {what} {key!r}.{_did_you_mean(name, known)}{listed}"


def _did_you_mean(word: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
