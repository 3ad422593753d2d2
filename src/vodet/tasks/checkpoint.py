"""Writes checkpoints atomically, and reads them without executing anything from the file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from vodet.detector import VideoDetector
from vodet.errors import CheckpointError, ConfigError, OutputError
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
    """Writes each checkpoint to a temporary file, which is renamed only when it is complete."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            CheckpointError: If the file cannot be written, for example because the disk is full; an
                existing file at ``path`` is unchanged.
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
                f"The checkpoint was not saved. {error} An earlier checkpoint at this path is "
                "unchanged. If the disk is full, free some space. Then continue with resume=last."
            )
            raise CheckpointError(msg) from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: Any = True
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU, as `read_checkpoint` does; only ``path`` has an effect."""
        return read_checkpoint(path)


def read_checkpoint(path: FilePath) -> dict[str, Any]:
    """Read a checkpoint that vodet wrote. No code in the file is executed.

    Returns:
        The content of the checkpoint, with all tensors on the CPU.

    Raises:
        CheckpointError: If the file does not exist, is truncated or damaged, contains anything
            other than tensors and plain values, was not written by vodet, or has unusable weights.
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
    expected: dict[str, Any] = {
        "class_names": list,
        "config": dict | None,
        "settings": dict | None,
        "about": dict | None,
    }
    for key, kind in expected.items():
        default = ... if key in ("class_names", "config") else None
        found: Any = card.get(key, default) if isinstance(card, dict) else card
        is_kind = isinstance(found, kind)
        if not is_kind or (kind is list and not all(isinstance(name, str) for name in found)):
            msg = (
                f"The checkpoint {path} is damaged or was not written by vodet: expected class "
                f"names and a config in its entry {CARD_KEY!r}, found "
                f"{'nothing' if found is ... else shown(found)} as its {key}. Use a checkpoint "
                "written by vodet-train."
            )
            raise CheckpointError(msg)


def load(
    path: FilePath,
    *,
    trusted: Sequence[str] = (),
    map_location: str | torch.device = "cpu",
    overrides: dict[str, Any] | None = None,
) -> VideoDetector:
    """Rebuild the detector of a checkpoint in evaluation mode.

    If training averaged the weights, the detector has the averaged weights. No code in the file is
    executed, and no file or URL that the file names is opened. The config in the file may name only
    classes that are parts of a vodet detector, and anything in the packages in ``trusted``.

    Args:
        path: A checkpoint written by `vodet-train`.
        trusted: Names of further packages whose classes and functions the config may name.
        map_location: Device on which to put the detector; ``auto`` is the GPU if there is one.
        overrides: Values that replace values of the config, by dotted key, such as
            ``{"window.past": 3}``.

    Raises:
        CheckpointError: If the file cannot be used; the message says why.
        ConfigError: If this machine does not have the device.

    Example:
        ::

            detector = vodet.load("runs/demo/best.ckpt")
    """
    device = find_device(map_location)
    return rebuilt(read_checkpoint(path), path, trusted, overrides).to(device)


def rebuilt(
    checkpoint: dict[str, Any],
    path: FilePath,
    trusted: Sequence[str] = (),
    overrides: dict[str, Any] | None = None,
) -> VideoDetector:
    """Rebuild the detector of a checkpoint that was read, in evaluation mode on the CPU.

    The arguments and errors are those of `load`.
    """
    card = checkpoint[CARD_KEY]
    if not card["config"]:
        msg = (
            f"The checkpoint {path} has no config, because its VideoDetectionTask was created "
            "without config=. Build the detector in Python and load the weights with "
            "vodet.init_from(detector, path)."
        )
        raise CheckpointError(msg)
    config = trusted_config(_model_config(card), trusted, path)
    if not trusted:  # classes of other packages may not work on the meta device
        with torch.device("meta"):  # to compare shapes before allocating memory
            outline = _build(config, card["class_names"], overrides or {}, path)
        fitting_weights(outline, checkpoint, path)
    detector = _build(config, card["class_names"], overrides or {}, path)
    load_weights(detector, path, checkpoint)
    detector.about = card.get("about") or _about(card["config"], checkpoint)
    return detector.eval()


def _about(config: dict[str, Any], checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint tells about its training, for model cards."""
    data, evaluation = (_mapping(config.get(key)) for key in ("data", "evaluation"))
    files = {part: _mapping(data.get(part)).get("annotations") for part in ("train", "val")}
    epoch = checkpoint.get("epoch")
    training = {
        "run": config.get("name"),
        # Model cards are published, so they name the files without the folders of this machine.
        **{
            part: "/".join(Path(file).parts[-2:])
            for part, file in files.items()
            if isinstance(file, str)
        },
        "protocols": evaluation.get("protocols"),
        "epochs": epoch + 1 if isinstance(epoch, int) else None,  # epochs are counted from 0
    }
    states = map(_mapping, _mapping(checkpoint.get("callbacks")).values())
    scores = {state.get("monitor"): state.get("current_score") for state in states}
    return {
        "training": {key: value for key, value in training.items() if value is not None},
        "metrics": {
            name: float(score)
            for name, score in scores.items()
            if isinstance(name, str) and isinstance(score, Tensor | float)
        },
    }


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def find_device(name: str | torch.device) -> torch.device:
    """Return the device with a name. ``auto`` means the GPU, or the CPU if there is no GPU.

    Raises:
        ConfigError: If this machine does not have the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        msg = (
            f"Expected a device of this machine, which has {torch.cuda.device_count()} GPUs; found "
            f"{str(name)!r}. cpu runs anywhere. ({error})"
        )
        raise ConfigError(msg) from error


def _model_config(card: dict[str, Any]) -> Any:
    """Return the config of the detector, updated with the settings that the checkpoint stores.

    For example, the config of a detector from transformers may only name a model on a hub. The
    stored settings replace this name by the full description of the model.
    """
    model: Any = card["config"].get("model")
    for part, settings in (card.get("settings") or {}).items():
        named = model.get(part) if isinstance(model, dict) else None
        if isinstance(settings, dict) and isinstance(named, dict):
            model = {**model, part: {**named, **settings}}
    return model


def load_weights(
    detector: VideoDetector, path: FilePath, checkpoint: dict[str, Any] | None = None
) -> None:
    """Copy the weights of a checkpoint into a detector of the same architecture and classes.

    Args:
        detector: The detector.
        path: A checkpoint written by `vodet-train`.
        checkpoint: The content of ``path``, if it has been read already.

    Raises:
        CheckpointError: If classes, names or shapes differ; the message lists the first ten
            differences.
    """
    detector.load_state_dict(fitting_weights(detector, checkpoint or read_checkpoint(path), path))


def fitting_weights(
    detector: VideoDetector, checkpoint: dict[str, Any], path: Any
) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, after checking that they fit a detector.

    Args:
        detector: The detector.
        checkpoint: The content of the checkpoint.
        path: The file of the checkpoint, for error messages.

    Raises:
        CheckpointError: If classes, names or shapes differ.
    """
    class_names = tuple(checkpoint[CARD_KEY]["class_names"])
    if class_names != detector.class_names:
        msg = (
            f"The checkpoint {path} was trained on other classes: expected "
            f"{list(detector.class_names)}, found {list(class_names)}. Use data with the classes "
            "of the checkpoint, or start a new training from its weights with init_from."
        )
        raise CheckpointError(msg)
    weights = detector_weights(checkpoint)
    if differences := list(_differences(detector.state_dict(), weights)):
        listed = first_ten(differences, "difference")
        msg = (
            f"The checkpoint {path} does not fit this detector; use the settings of its training. "
            f"{listed}"
        )
        raise CheckpointError(msg)
    return weights


def detector_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights of the detector in a checkpoint, by their names in the detector."""
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
        overridden = f" with the overrides {', '.join(overrides)}" if overrides else ""
        msg = f"The detector of the checkpoint {path} cannot be built{overridden}: {reason}"
        raise CheckpointError(msg) from error
    if not isinstance(detector, VideoDetector):
        msg = (
            f"The config of the checkpoint {path} builds a {type(detector).__name__}, expected a "
            "VideoDetector. Use a checkpoint written by vodet-train."
        )
        raise CheckpointError(msg)
    return detector
