"""Building a detector from its config and the classes of a data set or checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from vodet.detector import VideoDetector


def build_detector(model: DictConfig, class_names: Sequence[str]) -> VideoDetector:
    """Build the detector that a config describes.

    The class names come from a file and never reach Hydra, which would resolve interpolations in
    them and call what they name as ``_target_``.

    Args:
        model: Config of the detector.
        class_names: Names of the labels.

    Raises:
        InstantiationException: If the detector cannot be built.
    """
    build = instantiate(model, _partial_=True)
    try:
        detector: VideoDetector = build(class_names=tuple(class_names))
    except HydraException:
        raise
    except Exception as error:
        msg = f"Error in call to target {model.get('_target_')!r}: {error!r}"
        raise InstantiationException(msg) from error
    return detector
