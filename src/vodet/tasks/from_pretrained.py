"""Rebuilds a detector from a folder or from a repository of the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load as parse_safetensors

from vodet.detector import VideoDetector
from vodet.errors import CheckpointError
from vodet.files import read_file
from vodet.model_folder import CONFIG_FILE, WEIGHTS_FILE, first_line
from vodet.tasks.checkpoint import (
    CARD_KEY,
    WEIGHTS_PREFIX,
    checked_checkpoint,
    find_device,
    rebuilt,
)
from vodet.tasks.checkpoint_file import FilePath

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def from_pretrained(
    name: FilePath,
    *,
    trusted: Sequence[str] = (),
    map_location: str | torch.device = "cpu",
    overrides: dict[str, Any] | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> VideoDetector:
    """Rebuild a detector that `VideoDetector.save_pretrained` wrote, in evaluation mode.

    As with `vodet.load`, no code in the files is executed, and no file or URL that they name is
    opened. The config may name only classes that are parts of a vodet detector, and anything in the
    packages in ``trusted``.

    Args:
        name: A folder, or the name of a repository of the Hugging Face hub, ``OWNER/NAME``, which
            is downloaded if there is no folder of this name.
        trusted: Names of further packages whose classes and functions the config may name.
        map_location: Device on which to put the detector; ``auto`` is the GPU if there is one.
        overrides: Values that replace values of the config, by dotted key.
        revision: Branch, tag or commit of the repository.
        token: Access token; by default the token that ``hf auth login`` stored.

    Raises:
        CheckpointError: If the files cannot be downloaded or used; the message says why.
        ConfigError: If this machine does not have the device.

    Example:
        ::

            detector = vodet.from_pretrained("street-detector")
    """
    device = find_device(map_location)
    folder = Path(name) if Path(name).is_dir() else _download(str(name), revision, token)
    checkpoint = checked_checkpoint(_read(folder), folder)
    return rebuilt(checkpoint, folder, trusted, overrides).to(device)


def _download(name: str, revision: str | None, token: str | None) -> Path:
    if not _HUB_NAME.fullmatch(name):
        msg = (
            f"Expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, or the name of a repository "
            f"of the Hugging Face hub (OWNER/NAME); found no folder at {name}."
        )
        raise CheckpointError(msg)
    try:
        files = [CONFIG_FILE, WEIGHTS_FILE]
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=files))
    except Exception as error:  # many kinds: of the connection, the name, the permission, the disk
        msg = (
            f"There is no folder {name}, and the Hugging Face hub does not provide {name}: "
            f"{first_line(error)} Check the name, the connection and, for a private repository, "
            "the token."
        )
        raise CheckpointError(msg) from error


def _read(folder: Path) -> dict[str, Any]:
    """Return the content of a folder in the form of a checkpoint."""
    readers: dict[str, Callable[[bytes], Any]] = {
        CONFIG_FILE: json.loads,
        WEIGHTS_FILE: parse_safetensors,
    }
    contents: dict[str, Any] = {}
    for name, read in readers.items():
        try:
            contents[name] = read(read_file(folder / name))
        except FileNotFoundError as error:
            msg = (
                f"Expected the files {' and '.join(readers)} of a vodet detector in {folder}, "
                f"found no {name}. A checkpoint of vodet-train is read by vodet.load."
            )
            raise CheckpointError(msg) from error
        except Exception as error:  # the content of a file may cause any error
            msg = f"{folder / name} is damaged or cannot be read: {first_line(error)}"
            raise CheckpointError(msg) from error
    weights = {WEIGHTS_PREFIX + key: value for key, value in contents[WEIGHTS_FILE].items()}
    return {CARD_KEY: contents[CONFIG_FILE], "state_dict": weights}
