"""Recognises the weights of detectors that other programs have trained, and renames them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from vodet.detector import VideoDetector
from vodet.tasks import detectron2_weights, torchvision_weights
from vodet.tasks.checkpoint_file import FilePath
from vodet.tasks.torchvision_weights import COCO
from vodet.tasks.weights import Weights

# In the order of the data set's development kit.
IMAGENET_VID = (
    "airplane,antelope,bear,bicycle,bird,bus,car,cattle,dog,domestic_cat,elephant,fox,giant_panda,"
    "hamster,horse,lion,lizard,monkey,motorcycle,rabbit,red_panda,sheep,snake,squirrel,tiger,train,"
    "turtle,watercraft,whale,zebra"
)


@runtime_checkable
class Architecture(Protocol):
    """The architecture of a network, as inferred from the names and shapes of its weights."""

    @property
    def class_counts(self) -> tuple[int, ...]:
        """The possible numbers of classes, without background; the first is the default."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of weights that are in the file, but that the network does not use."""

    @property
    def bases(self) -> tuple[str, ...]:
        """Names of the files of ``conf/base`` that fit the weights; the first is the default."""

    @property
    def overrides(self) -> list[str]:
        """The Hydra overrides from which the config of the network is composed."""

    @property
    def summary(self) -> list[str]:
        """Lines of text that describe the network to the user."""

    def settings(self) -> dict[str, Any]:
        """Return config values that describe the architecture, by key, such as ``head.width``."""

    def place_of(self, name: str) -> str | None:
        """Return the name that a weight of the other program has in `VideoDetector`.

        Returns ``""`` for an entry that is not a weight, such as ``pixel_mean``, and None for an
        unknown name.
        """

    def arranged(self, weights: Weights, num_classes: int) -> Weights:
        """Return the weights with the classes in vodet's order: background is the last class.

        Args:
            weights: The weights, by their names in the other program.
            num_classes: One of ``class_counts``.
        """

    def check(self, detector: VideoDetector, weights: Weights, path: FilePath) -> None:
        """Check that the detector agrees with what the file stores beside weights, such as anchors.

        Args:
            detector: The detector for the weights.
            weights: The content of the file, by the names in the other program.
            path: The file of the weights, for error messages.

        Raises:
            CheckpointError: If the detector would compute something else.
        """


PROGRAMS: dict[str, Callable[[Weights, FilePath], Architecture]] = {
    "torchvision": torchvision_weights.architecture_of,
    "detectron2": detectron2_weights.architecture_of,
    "sltnet": detectron2_weights.architecture_of,
}


def is_foreign(checkpoint: object) -> bool:
    """Return whether the content of a file is a Faster R-CNN of torchvision or detectron2.

    The names of the weights decide. The weights may also be in the entry ``model``.
    """
    found = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else None
    return isinstance(found, dict) and any(str(name).startswith("roi_heads.") for name in found)


def architecture_of(weights: Weights, path: FilePath) -> Architecture:
    """Infer the architecture of a network from its weights.

    Args:
        weights: The weights, by their names in torchvision or detectron2.
        path: The file of the weights, for error messages.

    Raises:
        CheckpointError: If the architecture is not supported.
    """
    is_torchvision = any(name.startswith("rpn.") for name in weights)
    return PROGRAMS["torchvision" if is_torchvision else "detectron2"](weights, path)


def renamed(weights: Weights, architecture: Architecture) -> dict[str, Tensor]:
    """Return weights by their names in vodet.

    A weight without a name in vodet keeps its name. Weights that the network does not use are left
    out.

    Args:
        weights: The weights, from ``architecture.arranged``.
        architecture: The architecture of the network.
    """
    places = {name: architecture.place_of(name) for name in weights}
    return {
        place or name: weights[name]
        for name, place in places.items()
        if place != "" and name not in architecture.unused
    }


def known_class_names(count: int) -> tuple[str, ...] | None:
    """Return the class names of COCO for 80 classes, of ImageNet VID for 30, otherwise None."""
    return {len(names): names for names in (COCO, tuple(IMAGENET_VID.split(",")))}.get(count)
