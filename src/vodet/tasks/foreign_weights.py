"""Weights of detectors that other programs have trained, by their names in vodet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from vodet.detector import VideoDetector
from vodet.tasks import detectron2_weights, torchvision_weights
from vodet.tasks.checkpoint_file import FilePath
from vodet.tasks.torchvision_weights import COCO
from vodet.tasks.weights import Weights

# In the order of the development kit.
IMAGENET_VID = (
    "airplane,antelope,bear,bicycle,bird,bus,car,cattle,dog,domestic_cat,elephant,fox,giant_panda,"
    "hamster,horse,lion,lizard,monkey,motorcycle,rabbit,red_panda,sheep,snake,squirrel,tiger,train,"
    "turtle,watercraft,whale,zebra"
)


@runtime_checkable
class Architecture(Protocol):
    """What the names and shapes of the weights of a network tell of it."""

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Possible numbers of classes, without background; the first is the usual one."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of weights that the network does not use."""

    @property
    def base(self) -> str:
        """The choice of ``conf/`` with the settings of the network, for the user."""

    @property
    def overrides(self) -> list[str]:
        """Choices and values of ``conf/`` that describe the network."""

    @property
    def summary(self) -> list[str]:
        """Lines that tell a user what was found."""

    def settings(self) -> dict[str, Any]:
        """Return the values of the architecture for a detector's config, by dotted key."""

    def place_of(self, name: str) -> str | None:
        """Return the name in `VideoDetector` of a weight, ``""`` for what is no weight, or None."""

    def arranged(self, weights: Weights, num_classes: int) -> Weights:
        """Return the weights with the classes in the order of vodet, which has background last."""

    def check(self, detector: VideoDetector, weights: Weights, path: FilePath) -> None:
        """Raise a `CheckpointError` if the detector would compute anything else."""


PROGRAMS: dict[str, Callable[[Weights, FilePath], Architecture]] = {
    "torchvision": torchvision_weights.architecture_of,
    "detectron2": detectron2_weights.architecture_of,
    "sltnet": detectron2_weights.architecture_of,
}


def is_foreign(checkpoint: object) -> bool:
    """Return whether what was read from a file has names of torchvision or detectron2."""
    found = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else None
    return isinstance(found, dict) and any(str(name).startswith("roi_heads.") for name in found)


def architecture_of(weights: Weights, path: FilePath) -> Architecture:
    """Read the architecture of a network off its weights, whichever program has trained it.

    Raises:
        CheckpointError: If the architecture is not supported.
    """
    is_torchvision = any(name.startswith("rpn.") for name in weights)
    return PROGRAMS["torchvision" if is_torchvision else "detectron2"](weights, path)


def renamed(weights: Weights, architecture: Architecture) -> dict[str, Tensor]:
    """Return arranged weights by their names in vodet; a weight without one keeps its own name."""
    places = {name: architecture.place_of(name) for name in weights}
    return {
        place or name: weights[name]
        for name, place in places.items()
        if place != "" and name not in architecture.unused
    }


def known_class_names(count: int) -> tuple[str, ...] | None:
    """Return the class names of the data set of detectors with so many classes, if one is known."""
    return {len(names): names for names in (COCO, tuple(IMAGENET_VID.split(",")))}.get(count)
