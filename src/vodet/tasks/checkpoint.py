"""Writes checkpoints atomically, and reads them without executing anything from the file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from vodet import __version__
from vodet.detector import VideoDetector
from vodet.errors import CheckpointError, OutputError
from vodet.files import replacing
from vodet.pretrained import no_pretrained_weights
from vodet.tasks.build import build_detector
from vodet.tasks.checkpoint_file import WHAT_READS_WHAT, FilePath, entries, shown
from vodet.tasks.restricted_pickle import read_pickle
from vodet.tasks.trust import trusted_config
from vodet.tasks.weights import checked_weights, difference_of, first_ten

CARD_KEY = "vodet"
WEIGHTS_PREFIX = "detector."


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name and renames it, so no file is half written."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            CheckpointError: If the file cannot be written, such as on a full disk; an existing file
                is unchanged.
        """
        # Into memory first: torch's own writer hides why a file cannot be written.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            with replacing(path) as partial, partial.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OutputError as error:
            msg = (
                f"The checkpoint was not saved. {error} Is the disk full? An earlier checkpoint at "
                "this path is unchanged; free some space and continue with resume=last."
            )
            raise CheckpointError(msg) from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: Any = True
    ) -> dict[str, Any]:
        """Read a checkpoint of tensors and plain values; see `read_checkpoint`."""
        return read_checkpoint(path)


def model_card(detector: VideoDetector, config: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a checkpoint stores about its detector, as plain values."""
    return {
        "version": __version__,
        "class_names": list(detector.class_names),
        "config": config,
    }


def read_checkpoint(path: FilePath) -> dict[str, Any]:
    """Read a checkpoint of vodet to the CPU, executing nothing from it.

    Raises:
        CheckpointError: If there is no such file, or if the file is truncated or damaged, holds
            anything but tensors and plain values, was not written by vodet, or has unusable
            weights.
    """
    return checked_checkpoint(read_pickle(path, only_zip=True), path)


def checked_checkpoint(checkpoint: Any, path: FilePath) -> dict[str, Any]:
    """Check that a checkpoint was written by vodet and has usable weights, and return it.

    Args:
        checkpoint: The content of the file.
        path: The file, for error messages.

    Raises:
        CheckpointError: If the checkpoint was not written by vodet, or its weights are unusable.
    """
    if not isinstance(checkpoint, dict) or not {CARD_KEY, "state_dict"} <= checkpoint.keys():
        msg = (
            f"The checkpoint {path} was not written by vodet: expected the entries 'state_dict' "
            f"and {CARD_KEY!r}, found {entries(checkpoint)}. {WHAT_READS_WHAT}"
        )
        raise CheckpointError(msg)
    _check_card(checkpoint[CARD_KEY], path)
    for key in ("state_dict", "current_model_state"):  # the second exists with averaged weights
        if key in checkpoint:
            checked_weights(checkpoint[key], path)
    return checkpoint


def _check_card(card: Any, path: FilePath) -> None:
    expected: dict[str, Any] = {"class_names": list, "config": dict | None}
    for key, kind in expected.items():
        found = card.get(key, ...) if isinstance(card, dict) else card
        is_kind = isinstance(found, kind)
        if not is_kind or (kind is list and not all(isinstance(name, str) for name in found)):
            msg = (
                f"The checkpoint {path} is damaged or was not written by vodet: expected class "
                f"names and a config in its entry {CARD_KEY!r}, found {shown(found)} as {key}."
            )
            raise CheckpointError(msg)


def load(
    path: FilePath,
    *,
    trusted: Sequence[str] = (),
    map_location: Any = "cpu",
    overrides: dict[str, Any] | None = None,
) -> VideoDetector:
    """Rebuild the detector of a checkpoint in evaluation mode.

    If training averaged the weights, the detector has the averaged weights. Nothing from the file
    is executed, and no file or address that it names is opened. It holds tensors and a config, and
    the config may only name parts of detectors.

    Args:
        path: A checkpoint written by `vodet-train`.
        trusted: Names of further packages whose classes the config may name.
        map_location: Device of the detector.
        overrides: Values that replace values of the config, by dotted key, such as
            ``{"window.past": 3}``.

    Raises:
        CheckpointError: If the file cannot be used; the message says why.

    Example:
        ::

            detector = vodet.load("runs/demo/best.ckpt")
    """
    checkpoint = read_checkpoint(path)
    card = checkpoint[CARD_KEY]
    if not card["config"]:
        msg = (
            f"The checkpoint {path} has no config, as its task was created without one. "
            "Build the detector yourself and call load_weights(detector, path)."
        )
        raise CheckpointError(msg)
    config = trusted_config(card["config"].get("model"), trusted, path)
    if not trusted:  # classes of other packages may not work on the meta device
        with torch.device("meta"):  # to compare shapes before allocating memory
            outline = _build(config, card["class_names"], overrides or {}, path)
        fitting_weights(outline, checkpoint, path)
    detector = _build(config, card["class_names"], overrides or {}, path)
    load_weights(detector, path, checkpoint)
    return detector.to(map_location).eval()


def load_weights(
    detector: VideoDetector, path: FilePath, checkpoint: dict[str, Any] | None = None
) -> None:
    """Copy the weights of a checkpoint into a detector of the same architecture and classes.

    Raises:
        CheckpointError: If classes, names or shapes differ; the message lists the first ten
            differences.
    """
    detector.load_state_dict(fitting_weights(detector, checkpoint or read_checkpoint(path), path))


def fitting_weights(
    detector: VideoDetector, checkpoint: dict[str, Any], path: Any
) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, after checking that they fit a detector.

    Raises:
        CheckpointError: See `load_weights`.
    """
    class_names = tuple(checkpoint[CARD_KEY]["class_names"])
    if class_names != detector.class_names:
        msg = (
            f"The checkpoint {path} was trained on other classes: expected "
            f"{list(detector.class_names)}, found {list(class_names)}."
        )
        raise CheckpointError(msg)
    weights = detector_weights(checkpoint)
    if differences := list(_differences(detector.state_dict(), weights)):
        listed = first_ten(differences, "difference")
        msg = f"The checkpoint {path} is from another model: {listed}"
        raise CheckpointError(msg)
    return weights


def detector_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return the detector's weights in a checkpoint, by their names in the detector."""
    return {
        name.removeprefix(WEIGHTS_PREFIX): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(WEIGHTS_PREFIX)
    }


def _differences(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[str]:
    for name in sorted(own.keys() | found.keys()):
        if name not in found:
            yield f"{name}: expected shape {tuple(own[name].shape)}, not in the checkpoint"
        elif name not in own:
            yield f"{name}: not in the model, found shape {tuple(found[name].shape)}"
        elif difference := difference_of(own[name], found[name]):
            yield f"{name}: {difference}"


def _build(
    model: DictConfig, class_names: list[str], overrides: dict[str, Any], path: FilePath
) -> VideoDetector:
    try:
        for key, value in overrides.items():
            OmegaConf.update(model, key, value)
        with no_pretrained_weights():
            detector = build_detector(model, class_names)
    except Exception as error:  # the values of the config may cause any error
        reason = str(error.__cause__ or error).partition("\n")[0]
        msg = f"The detector of the checkpoint {path} cannot be built: {reason}"
        raise CheckpointError(msg) from error
    if not isinstance(detector, VideoDetector):
        msg = f"The checkpoint {path} describes a {type(detector).__name__}, not a VideoDetector."
        raise CheckpointError(msg)
    return detector
