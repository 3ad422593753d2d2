"""Experiments without a file: ``experiment=DATA_METHOD`` combines a data set and a method."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore


def experiments(*folders: Path) -> dict[str, tuple[str, str]]:
    """Return the data set and the method of each experiment without a file, by experiment name.

    Args:
        folders: Config folders. Each ``data/*.yaml`` is combined with each ``method/*.yaml``,
            except pairs that have an ``experiment/DATA_METHOD.yaml``.
    """
    data, methods, files = (
        sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
        for group in ("data", "method", "experiment")
    )
    pairs = {f"{d}_{m}": (d, m) for d in data if d != "default" for m in methods}
    return {name: pair for name, pair in pairs.items() if name not in files}


def register_experiments(*folders: Path) -> None:
    """Register the experiments without a file in Hydra, so that ``experiment=NAME`` finds them."""
    store = ConfigStore.instance()
    for name, (data, method) in experiments(*folders).items():
        defaults = [{"override /method": method}, {"override /data": data}]
        node = {"defaults": defaults, "name": name}
        store.store(name, node, group="experiment", package="_global_", provider="vodet")


def own_config_dirs(arguments: Sequence[str]) -> list[Path]:
    """Return a list with the folder that ``--config-dir`` names, or an empty list without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--cfg", "-c")  # without it, argparse would take -c for -cd
    folder = parser.parse_known_args(arguments)[0].config_dir
    return [folder] if folder is not None else []
