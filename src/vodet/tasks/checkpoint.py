"""Checkpoints: written atomically, read without executing anything from them."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor

from vodet import __version__
from vodet.detector import VideoDetector
from vodet.errors import CheckpointError
from vodet.files import replacing
from vodet.tasks.trust import trusted_config

CARD_KEY = "vodet"
WEIGHTS_PREFIX = "detector."
_SOURCES_OF_WEIGHTS = {"pretrained": False, "checkpoint_path": None}  # and that there is none


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that no half file is ever seen."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            CheckpointError: If it cannot be written, as on a full disk; the old file stays.
        """
        # Into memory first: torch's own writer hides why a file cannot be written.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            with replacing(path) as partial, partial.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            msg = (
                f"The checkpoint {path} could not be written: {error}. Is the disk full? What "
                "was there before is unchanged; free some space and go on with resume=last."
            )
            raise CheckpointError(msg) from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: Any = True
    ) -> dict[str, Any]:
        """Read a checkpoint of tensors and plain values; see `read_checkpoint`."""
        return read_checkpoint(path, map_location or "cpu")


def model_card(detector: VideoDetector, config: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a checkpoint says of its detector, in plain values."""
    return {
        "version": __version__,
        "class_names": list(detector.class_names),
        "config": config,
    }


def read_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of vodet, executing nothing from it.

    Raises:
        CheckpointError: If there is none, it is truncated or damaged, holds more than tensors and
            plain values, or is not one of vodet.
    """
    if not Path(path).is_file():
        msg = f"Expected a checkpoint at {path}, found no such file."
        raise CheckpointError(msg)
    if not is_zipfile(path):  # as all that torch.save writes
        msg = (
            f"The checkpoint {path} is truncated, or is none: its {Path(path).stat().st_size} "
            "bytes do not end as a checkpoint does. Copy it again."
        )
        raise CheckpointError(msg)
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        msg = (
            f"The checkpoint {path} was not loaded, since it could run code: it holds "
            f"{name.group(1) if name else 'something'} beside tensors and plain values."
        )
        raise CheckpointError(msg) from error
    except Exception as error:  # whatever the reader stumbles over
        msg = f"The checkpoint {path} is damaged: {type(error).__name__}: {_first_line(error)}"
        raise CheckpointError(msg) from error
    if not _is_of_vodet(checkpoint):
        found = sorted(checkpoint) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        msg = (
            f"The checkpoint {path} was not written by vodet: expected the entries 'state_dict' "
            f"and {CARD_KEY!r}, with class_names and config; found {found}."
        )
        raise CheckpointError(msg)
    return checkpoint


def _is_of_vodet(checkpoint: Any) -> bool:
    if not isinstance(checkpoint, dict) or not {CARD_KEY, "state_dict"} <= checkpoint.keys():
        return False
    card = checkpoint[CARD_KEY]
    return (
        isinstance(card, dict)
        and isinstance(card.get("class_names"), list)
        and isinstance(card.get("config", ...), dict | None)
    )


def load(
    path: str | os.PathLike[str],
    *,
    trusted: Sequence[str] = (),
    map_location: Any = "cpu",
    overrides: dict[str, Any] | None = None,
) -> VideoDetector:
    """Rebuild the detector of a checkpoint, in eval mode, with its best known weights.

    Nothing from the file is executed: it holds tensors and a config, and the config may name
    classes of vodet alone.

    Args:
        path: A checkpoint written by `vodet-train`.
        trusted: Names of further packages whose classes the config may name.
        map_location: Device to load the weights to.
        overrides: Values by dotted key that replace those of the config, such as
            ``{"window.past": 3}``.

    Raises:
        CheckpointError: If the file cannot be used; the message says why.

    Example:
        ::

            detector = vodet.load("runs/demo/best.ckpt")
    """
    checkpoint = read_checkpoint(path, map_location)
    card = checkpoint[CARD_KEY]
    if not card["config"]:
        msg = (
            f"The checkpoint {path} carries no config: its task was made without one. "
            "Build the detector yourself and call load_weights(detector, path)."
        )
        raise CheckpointError(msg)
    config = trusted_config(card["config"].get("model"), trusted, path)
    detector = _build(config, card["class_names"], overrides or {}, path)
    load_weights(detector, path, checkpoint)
    return detector.to(map_location).eval()


def load_weights(
    detector: VideoDetector, path: str | os.PathLike[str], checkpoint: dict[str, Any] | None = None
) -> None:
    """Copy the weights of a checkpoint into a detector of the same architecture and classes.

    Raises:
        CheckpointError: If classes, names or shapes differ; names the first ten differences.
    """
    detector.load_state_dict(fitting_weights(detector, checkpoint or read_checkpoint(path), path))


def fitting_weights(
    detector: VideoDetector, checkpoint: dict[str, Any], path: Any
) -> dict[str, Tensor]:
    """Return the weights of a detector from a checkpoint of it.

    Raises:
        CheckpointError: As `load_weights`.
    """
    class_names = tuple(checkpoint[CARD_KEY]["class_names"])
    if class_names != detector.class_names:
        msg = (
            f"The checkpoint {path} was trained on other classes: expected "
            f"{list(detector.class_names)}, found {list(class_names)}."
        )
        raise CheckpointError(msg)
    weights = detector_weights(checkpoint)
    own = {name: tuple(value.shape) for name, value in detector.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if differences := list(_differences(own, found)):
        shown = "\n".join(f"  {line}" for line in differences[:10])
        msg = (
            f"The checkpoint {path} is from another model: {len(differences)} differences, "
            f"the first of them:\n{shown}"
        )
        raise CheckpointError(msg)
    return weights


def detector_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights of the detector in a checkpoint, by their names in it."""
    return {
        name.removeprefix(WEIGHTS_PREFIX): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(WEIGHTS_PREFIX)
    }


def _differences(own: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    for name in sorted(own.keys() | found.keys()):
        if name not in found:
            yield f"{name}: expected shape {own[name]}, not in the checkpoint"
        elif name not in own:
            yield f"{name}: not in the model, found shape {found[name]}"
        elif own[name] != found[name]:
            yield f"{name}: expected shape {own[name]}, found {found[name]}"


def _build(
    model: DictConfig, class_names: list[str], overrides: dict[str, Any], path: Any
) -> VideoDetector:
    _name_no_weights(model)
    for key, value in overrides.items():
        OmegaConf.update(model, key, value)
    try:
        detector = instantiate(model, class_names=class_names)
    except InstantiationException as error:
        msg = f"The detector of the checkpoint {path} cannot be built: {error.__cause__ or error}"
        raise CheckpointError(msg) from error
    if not isinstance(detector, VideoDetector):
        msg = f"The checkpoint {path} describes a {type(detector).__name__}, not a VideoDetector."
        raise CheckpointError(msg)
    return detector


def _name_no_weights(node: Any) -> None:
    """Let no part of a config name weights to fetch or open: they are in the checkpoint."""
    if isinstance(node, ListConfig):
        for entry in node:
            _name_no_weights(entry)
    elif isinstance(node, DictConfig):
        for key, entry in node.items():
            if key in _SOURCES_OF_WEIGHTS:
                node[key] = _SOURCES_OF_WEIGHTS[str(key)]
            else:
                _name_no_weights(entry)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
