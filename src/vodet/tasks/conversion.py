"""Checkpoints made of weights that another program has trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from omegaconf import OmegaConf
from torch import Tensor

from vodet.errors import CheckpointError
from vodet.tasks.build import build_detector
from vodet.tasks.checkpoint_file import FilePath
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.foreign_weights import Architecture
from vodet.tasks.init_from import InitReport
from vodet.tasks.weights import Weights, difference_of, first_ten


def convert(
    weights: Weights,
    architecture: Architecture,
    model: dict[str, Any],
    class_names: Sequence[str],
    path: FilePath,
) -> tuple[dict[str, Any], InitReport]:
    """Make a checkpoint that `vodet.load` reads.

    Args:
        weights: The weights, by their names in the other program.
        architecture: Their architecture.
        model: Config of the detector as plain values, with the settings of ``architecture``.
        class_names: Names of the classes, in the order of the weights.
        path: Their file, for error messages.

    Returns:
        The checkpoint, and a report of the weights in it.

    Raises:
        CheckpointError: If a weight is missing, a weight has no place in the detector, or shapes or
            anchors differ.
    """
    try:
        detector = build_detector(OmegaConf.create(model), class_names)
    except Exception as error:  # shapes of weights may lead to any error
        msg = f"There is no detector for the weights of {path}: {error.__cause__ or error}"
        raise CheckpointError(msg) from error
    architecture.check(detector, weights, path)
    own = detector.state_dict()
    found, faults = _placed(architecture.arranged(weights, len(class_names)), architecture, own)
    faults += [
        f"{name}: expected shape {tuple(own[name].shape)}, no weight for it in the file"
        for name in own
        if name not in found and not name.endswith("num_batches_tracked")
    ]
    if faults:
        msg = f"The weights of {path} do not fit the detector that their names tell: " + first_ten(
            faults, "difference"
        )
        raise CheckpointError(msg)
    detector.load_state_dict(own | found)
    task = VideoDetectionTask(detector, config={"model": model})
    checkpoint = {"state_dict": task.state_dict(), "pytorch-lightning_version": L.__version__}
    task.on_save_checkpoint(checkpoint)
    report = InitReport(
        path=str(path),
        loaded=tuple(found),
        new=(),
        left=architecture.unused,
        reshaped=(),
        class_names=None,
    )
    return checkpoint, report


def _placed(
    weights: Weights, architecture: Architecture, own: Weights
) -> tuple[dict[str, Tensor], list[str]]:
    """Return weights by their names in vodet, and which do not fit.

    Args:
        weights: The weights, by their names in the other program, arranged.
        architecture: Their architecture.
        own: The weights of the detector.
    """
    found: dict[str, Tensor] = {}
    faults: list[str] = []
    for name, value in weights.items():
        place = architecture.place_of(name)
        if name in architecture.unused or place == "":
            continue
        if place is None or place not in own:
            faults.append(f"{name}: shape {tuple(value.shape)}, no place in the detector")
            continue
        if place in found:
            faults.append(f"{name}: a second weight for {place}")
        elif difference := difference_of(own[place], value):
            faults.append(f"{name}: {difference}")
        found[place] = value
    return found, faults
