"""Help texts of the Hydra commands, made from the files in conf/ without composing a config."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vodet.cli.app import config_dir
from vodet.cli.experiments import experiments, own_config_dirs

_BLOCKS_OF_HYDRA = re.compile(r"^(defaults|hydra):.*\n(([ ]+.*)?\n)*", re.MULTILINE)


def help_text(config_name: str, arguments: Sequence[str]) -> str:
    """Return the help text of a command.

    Args:
        config_name: Name of the command's file in conf/, without suffix, such as ``train``.
        arguments: The arguments of the command line, which may name a config folder of the user.
    """
    folders = [config_dir(), *own_config_dirs(arguments)]
    config = config_dir() / f"{config_name}.yaml"
    values = _BLOCKS_OF_HYDRA.sub("", config.read_text()).partition("\n")[2]
    groups = _groups(folders, OmegaConf.to_container(OmegaConf.load(config)))
    parts = [
        (config_dir() / "help" / f"{config_name}.txt").read_text(),
        "Groups and their options: choose with group=option; --cfg job shows all resulting values",
        *(f"{group}: {', '.join(options)}" for group, options in groups.items()),
        f"\nValues and their defaults: set with key=value\n{values.strip()}\n",
        "--hydra-help lists Hydra's options, such as --cfg and --multirun. See also the README.\n",
    ]
    return "\n".join(parts if groups else [parts[0].rstrip("\n"), *parts[2:]])


def _groups(folders: Sequence[Path], config: Any) -> dict[str, list[str]]:
    """Return the options of each config group of a command.

    Args:
        folders: The config folders.
        config: The content of the command's file in conf/.
    """
    own = {str(key) for entry in config["defaults"] if isinstance(entry, dict) for key in entry}
    groups: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.rglob("*/*.yaml"):
            group = path.parent.relative_to(folder)
            if group.parts[0] in own:
                groups.setdefault(group.as_posix(), set()).add(path.stem)
    if "experiment" in groups:
        groups["experiment"].update(experiments(*folders))
    return {group: sorted(groups[group]) for group in sorted(groups)}
