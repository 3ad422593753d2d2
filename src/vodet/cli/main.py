"""The console scripts.

Each command imports its modules only after it has parsed its arguments, so that help texts and
errors in the arguments appear quickly.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def train() -> None:
    """Run ``vodet-train``."""
    typed = sys.argv[1:]

    def command(config: DictConfig) -> None:
        from vodet.cli.train import train

        train(config)

    _run("train", command, lambda config: _resume(config, typed))


def evaluate() -> None:
    """Run ``vodet-eval``."""

    def command(config: DictConfig) -> None:
        from vodet.cli.eval import evaluate

        evaluate(config)

    _run("eval", command)


def predict() -> None:
    """Run ``vodet-predict``."""

    def command(config: DictConfig) -> None:
        from vodet.cli.predict import predict

        predict(config)

    _run("predict", command)


def export() -> None:
    """Run ``vodet-export``."""

    def command(config: DictConfig) -> None:
        from vodet.cli.export_model import export

        export(config)

    _run("export", command)


def data() -> int:
    """Run ``vodet-data``."""
    from vodet.cli.data import main

    return main()


def _run(
    config_name: str,
    command: Callable[[DictConfig], None],
    how_to_continue: Callable[[DictConfig], str] | None = None,
) -> None:
    if {"--help", "-h"} & set(sys.argv[1:]):
        from vodet.cli.ending import AGAIN, run_command
        from vodet.cli.faults import explain
        from vodet.cli.help import help_text

        def show_help() -> None:
            sys.stdout.write(help_text(config_name, sys.argv[1:]))

        sys.exit(run_command(show_help, explain, lambda: AGAIN))
    from vodet.cli.app import run

    run(config_name, command, how_to_continue)


def _resume(config: DictConfig, arguments: list[str]) -> str:
    """Return the message that tells the user how to resume a stopped training.

    Args:
        config: The config of the training.
        arguments: The arguments of the command line.
    """
    if not Path(config.run_dir, "last.ckpt").is_file():
        return (
            f"There is no checkpoint in {config.run_dir} yet: the first one is written at the end "
            "of the first epoch. Start again without resume."
        )
    kept = [argument for argument in arguments if not argument.startswith("resume=")]
    command = shlex.join(["vodet-train", *kept, "resume=last"])
    return f"The last checkpoint is in {config.run_dir}. To resume: {command}"
