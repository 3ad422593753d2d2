"""DETR-type detectors of the ``transformers`` library, called through their common interface."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.ops import box_convert

from vodet.errors import ConfigError
from vodet.heads.transformers_models import (
    build_model,
    first_line,
    make_config,
    read_config,
    read_model,
    read_processor,
    values_of,
)
from vodet.pretrained import allowed_source
from vodet.structures import Target

Statistics = tuple[Sequence[float], Sequence[float]]
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std, as in timm
_log = logging.getLogger(__name__)


class TransformersDetector(nn.Module):
    """A detector of the ``transformers`` library with a fixed number of queries.

    It uses only the interface that these detectors share: they take pixels, return ``logits``,
    ``pred_boxes`` and ``last_hidden_state``, and compute a ``loss`` if they get labels. They run in
    float32 even under autocast, because some models would otherwise round boxes to half precision.

    Args:
        num_classes: Number of classes. If the pretrained weights are for another number of classes,
            the layers that depend on it are newly initialised.
        pretrained: Name of a model on the Hugging Face hub, or a folder, with weights.
        config: Values of the model's config, by name. With ``pretrained``, they replace the model's
            values. Without it, they must include a ``model_type``, such as ``rt_detr_v2``, and the
            weights are random.
        mean: Mean of each RGB channel, on a scale of 0 to 255, by which frames are normalised. None
            means the value in the preprocessing config of ``pretrained``, or ImageNet's mean if
            there is none.
        std: Standard deviation of each RGB channel; scale and None as for ``mean``.
        trusted: Whether weights in pickle files may be loaded, too; otherwise only safetensors
            files are loaded.

    Attributes:
        net: The model of the ``transformers`` library.
        width: Number of features of a query.
        is_pretrained: Whether all weights were loaded, so that none is newly initialised.

    Raises:
        ConfigError: If ``transformers`` is not installed, or there is neither ``pretrained`` nor a
            ``model_type``.
        CheckpointError: If the model cannot be read, or is not a detector.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        pretrained: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        trusted: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        _, source = allowed_source(False, pretrained)
        values = config or {}
        settings = make_config(values) if source is None else read_config(source, values)
        if settings.num_labels != num_classes:
            settings.num_labels = num_classes
        self.is_pretrained = False
        if source is None:
            self.net, statistics = build_model(settings), IMAGENET
        else:
            self.net, new = read_model(source, settings, trusted=trusted)
            self.is_pretrained, statistics = not new, _statistics_of(source)
        self.width = int(getattr(settings, "d_model", 0) or settings.hidden_size)
        for name, given, found in zip(("mean", "std"), (mean, std), statistics, strict=True):
            channels = torch.tensor(given or [255.0 * share for share in found])
            self.register_buffer(name, channels.view(1, 3, 1, 1), persistent=False)

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor arguments that rebuild the detector with random weights.

        They do not name ``pretrained``, so nothing is read from a folder or from the hub.
        """
        return {
            "pretrained": None,
            "config": values_of(self.net.config),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }

    def forward(
        self, pixels: UInt8[Tensor, "F 3 H W"]
    ) -> tuple[Float[Tensor, "F Q K"], Float[Tensor, "F Q 4"], Float[Tensor, "F Q D"]]:
        """Return the class logits, boxes and features of all ``Q`` queries of each frame.

        Boxes are xyxy in pixels, not clipped. The model runs in evaluation mode and without
        gradients even during training, because only `loss` trains it.

        Raises:
            ConfigError: If the model does not accept frames of this size, or its outputs do not
                have the shapes of a DETR-type detector.
        """
        with _evaluation_mode(self.net), torch.no_grad():
            outputs = self._run(pixels)
        logits, features = outputs.logits.float(), outputs.last_hidden_state.float()
        if logits.shape[2] != self.num_classes or features.shape[2] != self.width:
            msg = (
                f"model/head=detr cannot use {type(self.net).__name__}: expected "
                f"{self.num_classes} class scores (one sigmoid per class) and {self.width} "
                f"features per query, found {logits.shape[2]} and {features.shape[2]}. Choose "
                "another model, such as RT-DETR or D-FINE."
            )
            raise ConfigError(msg)
        boxes = box_convert(outputs.pred_boxes.float(), "cxcywh", "xyxy")
        return logits, boxes * _sides(pixels), features

    def loss(self, pixels: UInt8[Tensor, "F 3 H W"], targets: Sequence[Target]) -> Tensor:
        """Return the loss that the model computes itself, with its built-in matching.

        The model does not know crowd regions, so detections in them count as false positives.

        Args:
            pixels: The frames.
            targets: Objects of each frame, with boxes in pixels.
        """
        labels = []
        for target in targets:
            is_object = ~target["iscrowd"]
            boxes = box_convert(target["boxes"][is_object], "xyxy", "cxcywh") / _sides(pixels)
            labels.append({"class_labels": target["labels"][is_object], "boxes": boxes})
        loss: Tensor = self._run(pixels, labels=labels).loss
        return loss

    def _run(self, pixels: Tensor, **labels: Any) -> Any:
        try:
            with torch.autocast(pixels.device.type, enabled=False):
                return self.net(pixel_values=(pixels - self.mean) / self.std, **labels)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # models refuse sizes with different errors
            height, width = pixels.shape[-2:]
            msg = (
                f"{type(self.net).__name__} failed on frames of {height} x {width} (height x "
                f"width): {first_line(error)} Choose a frame size that the model accepts, such as "
                "the square that it was trained with: data/input=square_640."
            )
            raise ConfigError(msg) from error


def _statistics_of(source: str | Path) -> Statistics:
    """Return mean and std from the model's preprocessing config, on a scale of 0 to 1."""
    processor = read_processor(source)
    if processor is None:
        message = "%s has no preprocessing config: frames are normalised with ImageNet's values."
        _log.warning(message, source)
        return IMAGENET
    if not processor.do_normalize:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return processor.image_mean, processor.image_std


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Set the evaluation mode; restore the mode of each submodule at the end of the block."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _sides(pixels: Tensor) -> Tensor:
    height, width = pixels.shape[-2:]
    return torch.tensor([width, height, width, height], device=pixels.device)
