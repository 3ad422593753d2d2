"""Checkpoints: written atomically, read without executing anything from them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning.pytorch.plugins.io import TorchCheckpointIO
from omegaconf import OmegaConf

from vodet import __version__
from vodet.detector import VideoDetector
from vodet.errors import CheckpointError
from vodet.files import replacing

CARD_KEY = "vodet"
_WEIGHTS_PREFIX = "detector."


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that no half file is ever seen."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            CheckpointError: If it cannot be written, as on a full disk; the old file stays.
        """
        try:
            with replacing(path) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch's writer hides OSError in RuntimeError
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
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        msg = (
            f"The checkpoint {path} holds more than tensors and plain values and was not loaded, "
            f"since it could run code: {_first_line(error)}"
        )
        raise CheckpointError(msg) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        msg = f"The checkpoint {path} is truncated or damaged: {_first_line(error)}"
        raise CheckpointError(msg) from error
    if not isinstance(checkpoint, dict) or not {CARD_KEY, "state_dict"} <= checkpoint.keys():
        found = sorted(checkpoint) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        msg = (
            f"The checkpoint {path} was not written by vodet: expected the entries {CARD_KEY!r} "
            f"and 'state_dict', found {found}."
        )
        raise CheckpointError(msg)
    return checkpoint


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
    config = (card["config"] or {}).get("model")
    if config is None:
        msg = (
            f"The checkpoint {path} carries no config: its task was made without one. "
            "Build the detector yourself and call load_weights(detector, path)."
        )
        raise CheckpointError(msg)
    for target in _targets(config):
        _require_trusted(target, ("vodet", *trusted), path)
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
    checkpoint = checkpoint or read_checkpoint(path)
    class_names = tuple(checkpoint[CARD_KEY]["class_names"])
    if class_names != detector.class_names:
        msg = (
            f"The checkpoint {path} was trained on other classes: expected "
            f"{list(detector.class_names)}, found {list(class_names)}."
        )
        raise CheckpointError(msg)
    weights = {
        name.removeprefix(_WEIGHTS_PREFIX): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(_WEIGHTS_PREFIX)
    }
    own = {name: tuple(value.shape) for name, value in detector.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if differences := list(_differences(own, found)):
        shown = "\n".join(f"  {line}" for line in differences[:10])
        msg = (
            f"The checkpoint {path} is from another model: {len(differences)} differences, "
            f"the first of them:\n{shown}"
        )
        raise CheckpointError(msg)
    detector.load_state_dict(weights)


def _differences(own: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    for name in sorted(own.keys() | found.keys()):
        if name not in found:
            yield f"{name}: expected shape {own[name]}, not in the checkpoint"
        elif name not in own:
            yield f"{name}: not in the model, found shape {found[name]}"
        elif own[name] != found[name]:
            yield f"{name}: expected shape {own[name]}, found {found[name]}"


def _targets(node: Any) -> Iterator[str]:
    """Yield every class path of a config."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _require_trusted(target: str, trusted: tuple[str, ...], path: Any) -> None:
    """Raise unless ``target`` is a class that is defined in a trusted package.

    The prefix is not enough: ``vodet.some.module.os.system`` would reach what a module imports.
    """
    if target.partition(".")[0] in trusted:
        found = get_object(target)
        if isinstance(found, type) and found.__module__.partition(".")[0] in trusted:
            return
    msg = (
        f"The checkpoint {path} names {target!r}, which is not a class of {', '.join(trusted)}. If "
        f"you trust it, say so: vodet.load(path, trusted=[{target.partition('.')[0]!r}]), or "
        f"trusted=[{target.partition('.')[0]}] on the command line."
    )
    raise CheckpointError(msg)


def _build(
    config: dict[str, Any], class_names: list[str], overrides: dict[str, Any], path: Any
) -> VideoDetector:
    model = OmegaConf.create(config)
    # The weights are in the checkpoint: nothing is to be fetched for the backbone.
    for key, value in {"backbone.pretrained": False, "backbone.checkpoint_path": None}.items():
        OmegaConf.update(model, key, value)
    for key, value in overrides.items():
        OmegaConf.update(model, key, value)
    try:
        detector = instantiate(model, class_names=class_names)
    except InstantiationException as error:
        msg = f"The detector of the checkpoint {path} cannot be built: {error}"
        raise CheckpointError(msg) from error
    if not isinstance(detector, VideoDetector):
        msg = f"The checkpoint {path} describes a {type(detector).__name__}, not a VideoDetector."
        raise CheckpointError(msg)
    return detector


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
