"""Builds a detector from a config and the class names of a data set or checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from vodet.detector import VideoDetector


def build_detector(model: DictConfig, class_names: Sequence[str]) -> VideoDetector:
    """Build the detector that a config describes.

    The class names may come from an untrusted file. They are passed directly to the detector, not
    through Hydra, which would resolve interpolations in them.

    Args:
        model: Config of the detector, with a ``_target_``.
        class_names: Names of the classes, in the order of the labels.

    Raises:
        InstantiationException: If the detector cannot be built.
    """
    build = instantiate(model, _partial_=True)
    try:
        detector: VideoDetector = build(class_names=tuple(class_names))
    except HydraException:
        raise
    except Exception as error:
        msg = f"Cannot build {model.get('_target_')} from its config: {error!r}"
        raise InstantiationException(msg) from error
    return detector
