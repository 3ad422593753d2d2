"""Runs ``vodet-data import-weights transformers``: converts detectors of that library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vodet.cli.app import config_dir
from vodet.detector import VideoDetector
from vodet.errors import CheckpointError
from vodet.heads.transformers_models import read_config, read_processor
from vodet.model_folder import model_card
from vodet.tasks.build import build_detector
from vodet.tasks.checkpoint import CARD_KEY, WEIGHTS_PREFIX, AtomicCheckpointIO

CHOICES = ("method=detr", "window=single", "run_dir=unused", "data_dir=unused")
_RESIZE = "vodet.data.frames.resize"


def import_transformers(
    source: str, target: Path, class_names: list[str] | None, *, trusted: bool
) -> list[str]:
    """Convert a detector of the transformers library to a checkpoint of vodet.

    Args:
        source: Name of a model on the Hugging Face hub, or a folder.
        target: The checkpoint to write.
        class_names: Names of the classes in the order of the weights; None to take the names from
            the config of the model.
        trusted: Whether to also read weights that are a pickle.

    Returns:
        Lines of text that describe the model and its input.

    Raises:
        CheckpointError: If the model cannot be read, lacks weights, or does not name its classes.
        ConfigError: If the model does not accept frames of the size that its preprocessing defines.
    """
    names = class_names or names_of(read_config(source, {}).id2label, source)
    config = model_config(source, trusted=trusted)
    detector: VideoDetector = build_detector(config, names).eval()
    model: Any = detector.head.model
    if not model.is_pretrained:
        msg = (
            f"{source} does not have all weights of a detector; the warning above lists the "
            "missing weights. Choose a model that was trained for object detection."
        )
        raise CheckpointError(msg)
    height, width = detector.resize.target_size((480, 640))
    with torch.inference_mode():  # raises an error here if the model does not accept this size
        detector.encode(torch.zeros(1, 3, height, width, dtype=torch.uint8))
    plain: Any = OmegaConf.to_container(config)
    plain["head"] |= detector.head.settings
    weights = {f"{WEIGHTS_PREFIX}{name}": value for name, value in detector.state_dict().items()}
    card = model_card(detector, {"model": plain})
    AtomicCheckpointIO().save_checkpoint({"state_dict": weights, CARD_KEY: card}, target)
    mean, std = ([round(v, 3) for v in s.flatten().tolist()] for s in (model.mean, model.std))
    return [
        f"{type(model.net).__name__} of {source}, {len(names)} classes",
        f"Input: RGB, 480 x 640 becomes {height} x {width}, mean {mean}, std {std}",
    ]


def label_count(source: str) -> int:
    """Return the number of classes of a model on the Hugging Face hub or in a folder."""
    return len(read_config(source, {}).id2label)


def names_of(id2label: Mapping[int, str], source: str) -> list[str]:
    """Return the names of classes in the order of their ids.

    If several classes have the same name, their ids are appended. For example, some models have
    classes called "N/A" for ids that COCO does not use.

    Args:
        id2label: The name of each class id, from the config of a model.
        source: Name or folder of the model, for error messages.

    Raises:
        CheckpointError: If the ids are not 0 to K - 1.
    """
    expected = range(len(id2label))
    if missing := sorted(set(expected) - set(id2label)):
        msg = (
            f"{source} does not name all of its classes: expected the ids 0 to {expected[-1]} in "
            f"id2label of its config, but {missing} are missing. Give all names with --classes."
        )
        raise CheckpointError(msg)
    count = Counter(id2label.values())
    names = [id2label[label] for label in expected]
    return [f"{name} {label}" if count[name] > 1 else name for label, name in enumerate(names)]


def model_config(source: str, *, trusted: bool) -> Any:
    """Compose the config of the detector from ``conf/`` and the input size of the model.

    Args:
        source: Name of the model on the Hugging Face hub, or a folder.
        trusted: Whether to also read weights that are a pickle.
    """
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", list(CHOICES)).model
    OmegaConf.resolve(config)
    config.head.pretrained, config.head.trusted = source, trusted
    usual = config.head.num_candidates
    config.head.num_candidates = min(usual, getattr(read_config(source, {}), "num_queries", usual))
    size = getattr(read_processor(source), "size", None)
    if size is not None and size.height and size.width:
        sides = {"height": size.height, "width": size.width}
        config.resize = {"_target_": f"{_RESIZE}.Stretch", **sides}
    elif size is not None and size.shortest_edge:
        sides = {"short_side": size.shortest_edge, "long_side": size.longest_edge}
        config.resize = {"_target_": f"{_RESIZE}.Resize", **sides}
    return config
