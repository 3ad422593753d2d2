"""Converts weights that another program has trained to checkpoints of vodet."""

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
    """Convert the weights of another program to a checkpoint that `vodet.load` reads.

    Args:
        weights: The weights, by their names in the other program.
        architecture: The architecture of the network, as inferred from the weights.
        model: Config of the detector as plain values, with the settings of ``architecture``.
        class_names: Names of the classes, in the order of the weights.
        path: The file of the weights, for error messages.

    Returns:
        The checkpoint, and a report of the weights in it.

    Raises:
        CheckpointError: If the detector needs a weight that is missing, does not have one of the
            weights, or if shapes or anchors differ.
    """
    try:
        detector = build_detector(OmegaConf.create(model), class_names)
    except Exception as error:  # shapes of weights may lead to any error
        msg = f"Cannot build a detector for the weights in {path}: {error.__cause__ or error}"
        raise CheckpointError(msg) from error
    architecture.check(detector, weights, path)
    own = detector.state_dict()
    found, faults = _placed(architecture.arranged(weights, len(class_names)), architecture, own)
    faults += [
        f"{name}: expected shape {tuple(own[name].shape)}, found no such weight in the file"
        for name in own
        if name not in found and not name.endswith("num_batches_tracked")
    ]
    if faults:
        msg = (
            f"The weights in {path} do not fit the architecture that was inferred from their names "
            f"and shapes, so they cannot be converted: {first_ten(faults, 'difference')}"
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
    """Rename weights to their names in vodet, and check that the detector has such weights.

    Args:
        weights: The weights, by their names in the other program, from ``architecture.arranged``.
        architecture: The architecture of the network, as inferred from the weights.
        own: The weights of the detector.

    Returns:
        The weights by their names in vodet, and one line of text per weight that does not fit.
    """
    found: dict[str, Tensor] = {}
    faults: list[str] = []
    for name, value in weights.items():
        place = architecture.place_of(name)
        if name in architecture.unused or place == "":
            continue
        if place is None or place not in own:
            shape = tuple(value.shape)
            faults.append(f"{name}: the detector has no such weight, found shape {shape}")
            continue
        if place in found:
            faults.append(f"{name}: found a second weight for {place}")
        elif difference := difference_of(own[place], value):
            faults.append(f"{name}: {difference}")
        found[place] = value
    return found, faults
