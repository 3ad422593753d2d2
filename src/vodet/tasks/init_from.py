"""Initialises a training run with the weights of a checkpoint that match by name and shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from vodet.detector import VideoDetector
from vodet.errors import CheckpointError
from vodet.tasks.checkpoint import CARD_KEY, checked_checkpoint, detector_weights
from vodet.tasks.checkpoint_file import FilePath
from vodet.tasks.foreign_weights import (
    architecture_of,
    is_foreign,
    known_class_names,
    renamed,
)
from vodet.tasks.restricted_pickle import read_pickle
from vodet.tasks.weights import Weights, difference_of, first_ten, foreign_weights

_BASES = ("backbone", "head.model")  # the second in heads that are whole detectors


@dataclass(frozen=True)
class InitReport:
    """Lists which weights of a checkpoint were loaded into a detector, and which were not.

    Args:
        path: The checkpoint.
        loaded: Names of the weights that were loaded.
        new: Names of weights of the detector that are not in the checkpoint.
        left: Names of weights of the checkpoint that the detector does not have.
        reshaped: Weights that were not loaded because their shape or type differs: for each, its
            name and the difference.
        class_names: Class names of the checkpoint if they differ from the detector's class names,
            otherwise None.
        made_for: For weights of another program, the settings ``base=NAME`` that fit them, one of
            which they were trained with; otherwise None.
    """

    path: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]
    reshaped: tuple[str, ...]
    class_names: tuple[str, ...] | None
    made_for: str | None = None

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
        if self.made_for is not None:
            lines.append(
                f"The weights were trained with the settings of {self.made_for}; with other "
                "settings, training starts from a less accurate detector."
            )
        return "\n".join(lines)


def init_from(detector: VideoDetector, path: FilePath) -> InitReport:
    """Load the weights of a checkpoint that match the weights of a detector by name and shape.

    The state of the optimizer is not loaded.

    Args:
        detector: The detector. Weights that are not loaded keep their values.
        path: A checkpoint written by `vodet-train` for this or another detector, or weights of
            SLTnet or of the Faster R-CNN of torchvision or detectron2.

    Returns:
        A report of the weights that were loaded and not loaded.

    Raises:
        CheckpointError: If the checkpoint cannot be read, if less than half of the backbone's
            weights match, or if a weight of a frozen part does not match and would stay random.
    """
    found, class_names, made_for = _read(path, len(detector.class_names))
    own = detector.state_dict()
    differences = {n: difference_of(own[n], found[n]) for n in own if n in found}
    loaded = [name for name, difference in differences.items() if difference is None]
    reshaped = [f"{name}: {difference}" for name, difference in differences.items() if difference]
    _check(detector, set(loaded), own, path)
    detector.load_state_dict({name: found[name] for name in loaded}, strict=False)
    return InitReport(
        path=str(path),
        loaded=tuple(loaded),
        new=tuple(name for name in own if name not in found),
        left=tuple(name for name in found if name not in own),
        reshaped=tuple(reshaped),
        class_names=None if class_names == detector.class_names else class_names,
        made_for=made_for,
    )


def _read(path: FilePath, num_classes: int) -> tuple[Weights, tuple[str, ...] | None, str | None]:
    """Read a checkpoint of vodet or another program.

    Args:
        path: The checkpoint.
        num_classes: Number of classes of the detector, for weights that can be used with several
            numbers of classes.

    Returns:
        The weights by their names in vodet, the class names (None if unknown), and the value for
        ``InitReport.made_for``.
    """
    checkpoint = read_pickle(path)
    if not is_foreign(checkpoint):
        checkpoint = checked_checkpoint(checkpoint, path)
        return detector_weights(checkpoint), tuple(checkpoint[CARD_KEY]["class_names"]), None
    weights = foreign_weights(checkpoint, path)
    architecture = architecture_of(weights, path)
    counts = architecture.class_counts
    count = num_classes if num_classes in counts else counts[0]
    found = renamed(architecture.arranged(weights, count), architecture)
    made_for = " or ".join(f"base={base}" for base in architecture.bases)
    return found, known_class_names(count), made_for


def _check(detector: VideoDetector, loaded: set[str], own: Iterable[str], path: FilePath) -> None:
    for base in _BASES:
        weights = [name for name in own if name.startswith(f"{base}.")]
        count = len(loaded.intersection(weights))
        if count < len(weights) / 2:
            msg = (
                f"init_from={path}: the checkpoint has another architecture: only {count} of the "
                f"{len(weights)} weights of {base} match by name and shape. Configure {base} as in "
                "the training of the checkpoint."
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
            "Use the model settings of the training that wrote the checkpoint, or do not freeze "
            "these parts."
        )
        raise CheckpointError(msg)


def _summary(names: Iterable[str]) -> str:
    """Count names by part of the detector: ``65 weights: backbone (59), head.rpn (6)``."""
    names = list(names)
    parts = Counter(
        ".".join(name.split(".")[: 2 if name.startswith("head.") else 1]) for name in names
    )
    counted = ", ".join(f"{part} ({count})" for part, count in parts.items())
    return f"{len(names)} weights: {counted}" if names else "nothing"
