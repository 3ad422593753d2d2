"""Starts a training with the weights of a checkpoint that match by name and shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from vodet.detector import VideoDetector
from vodet.errors import CheckpointError
from vodet.tasks.checkpoint import CARD_KEY, detector_weights, read_checkpoint
from vodet.tasks.checkpoint_file import FilePath
from vodet.tasks.weights import difference_of, first_ten


@dataclass(frozen=True)
class InitReport:
    """Which weights were loaded, and which were not.

    Args:
        path: The checkpoint.
        loaded: Names of the weights that were loaded.
        new: Names of weights of the detector that are not in the checkpoint.
        left: Names of weights of the checkpoint that the detector does not have.
        reshaped: Names of weights that were not loaded because the checkpoint has another shape or
            type, each with the difference.
        class_names: Classes of the checkpoint, if they differ from the detector's.
    """

    path: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]
    reshaped: tuple[str, ...]
    class_names: tuple[str, ...] | None

    def __str__(self) -> str:
        lines = [f"Loaded from {self.path}: {_summary(self.loaded)}"]
        if self.new:
            lines.append(f"New, with initial values: {_summary(self.new)}")
        if self.left:
            lines.append(f"Left in the checkpoint: {_summary(self.left)}")
        if self.reshaped:
            lines.append("Not loaded, other shape or type: " + ", ".join(self.reshaped))
        if self.class_names is not None:
            lines.append(
                f"The checkpoint has other classes, {', '.join(self.class_names)}: loaded weights "
                "of classification layers belong to these classes."
            )
        return "\n".join(lines)


def init_from(detector: VideoDetector, path: FilePath) -> InitReport:
    """Load the weights of a checkpoint that fit a detector, without the state of the optimizer.

    Args:
        detector: The detector; its other weights are unchanged.
        path: A checkpoint written by `vodet-train`, of this or another detector.

    Raises:
        CheckpointError: If the checkpoint cannot be read, has another architecture (no weight of
            the backbone fits), or lacks weights of frozen parts, which would never be trained.
    """
    checkpoint = read_checkpoint(path)
    found, own = detector_weights(checkpoint), detector.state_dict()
    differences = {n: difference_of(own[n], found[n]) for n in own if n in found}
    loaded = [name for name, difference in differences.items() if difference is None]
    reshaped = [f"{name}: {difference}" for name, difference in differences.items() if difference]
    _check(detector, set(loaded), own, path)
    detector.load_state_dict({name: found[name] for name in loaded}, strict=False)
    class_names = tuple(checkpoint[CARD_KEY]["class_names"])
    return InitReport(
        path=str(path),
        loaded=tuple(loaded),
        new=tuple(name for name in own if name not in found),
        left=tuple(name for name in found if name not in own),
        reshaped=tuple(reshaped),
        class_names=None if class_names == detector.class_names else class_names,
    )


def _check(detector: VideoDetector, loaded: set[str], own: Iterable[str], path: FilePath) -> None:
    if not any(name.startswith("backbone.") for name in loaded):
        msg = (
            f"init_from={path}: the checkpoint has another architecture, as no weight of the "
            "backbone fits. Choose the same model/backbone and model.backbone.name as in the "
            "training of the checkpoint."
        )
        raise CheckpointError(msg)
    missing = [
        name
        for name in own
        if name not in loaded and name.startswith(tuple(f"{part}." for part in detector.frozen))
    ]
    if missing:
        msg = (
            f"init_from={path}: the checkpoint must contain all weights of the frozen parts "
            f"(model.frozen: {', '.join(detector.frozen)}) in the same shapes. It lacks "
            f"{first_ten(missing, 'weight')}\n"
            "Choose the same parts as in the checkpoint, or do not freeze them."
        )
        raise CheckpointError(msg)


def _summary(names: Iterable[str]) -> str:
    """Count names by their part of the detector: ``backbone (59), head.rpn (6)``."""
    names = list(names)
    parts = Counter(
        ".".join(name.split(".")[: 2 if name.startswith("head.") else 1]) for name in names
    )
    counted = ", ".join(f"{part} ({count})" for part, count in parts.items())
    return f"{len(names)} weights: {counted}" if names else "nothing"
