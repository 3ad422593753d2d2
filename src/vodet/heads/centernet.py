"""CenterNet: detects objects as peaks of a heatmap, each with a size and an offset.

Source: X. Zhou et al., "Objects as Points" (arXiv 1904.07850).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vodet.encodings import FeatureMaps, FeatureSpec, State, WindowBatch
from vodet.errors import ConfigError
from vodet.heads.centernet_targets import CenterTargets, center_targets
from vodet.stages import Head, PyramidFactory, Targets
from vodet.structures import Detections, Target

INITIAL_SCORE = 0.1  # of every cell: RetinaNet's prior (arXiv 1708.02002) with CenterNet's value


def focal_loss(logits: Float[Tensor, "B K h w"], truth: CenterTargets) -> Float[Tensor, ""]:
    """Return the Gaussian focal loss, summed over all classes and cells that are not ignored.

    With score p and target t: ``-(1 - p)^2 log(p)`` where t is 1, and ``-(1 - t)^4 p^2 log(1 - p)``
    elsewhere. It is computed from logits, so loss and gradient are exact and finite for any score.
    """
    at_center = (-logits).sigmoid().square() * F.logsigmoid(logits) * truth.heatmap.eq(1)
    elsewhere = logits.sigmoid().square() * F.logsigmoid(-logits) * (1 - truth.heatmap) ** 4
    return -(at_center + elsewhere).masked_fill(truth.ignored, 0).sum()


class Branch(nn.Module):
    """A 3 x 3 convolution, ReLU and a 1 x 1 convolution, which predict one output of the head.

    The 1 x 1 convolution runs in float32 even under autocast, because half precision cannot
    separate the scores of neighbouring cells well enough to find peaks.

    Args:
        in_channels: Channels of the map.
        channels: Channels between the two convolutions.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1)
        self.out = nn.Conv2d(channels, out_channels, kernel_size=1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h w"]:
        """Return the output for each cell of the map, float32."""
        x = F.relu(self.conv(x))
        with torch.autocast(x.device.type, enabled=False):
            output: Tensor = self.out(x.to(self.out.weight.dtype))
        return output


class CenterNetHead(Head):
    """Merges all levels into one map, and predicts a class heatmap, sizes and offsets from it.

    The outputs are float32, even under autocast, on the ``h x w`` grid of the merged map:
    ``heatmap`` ``[B, num_classes, h, w]`` holds logits; ``size`` ``[B, 2, h, w]`` is the width and
    height of the object in cells; ``offset`` ``[B, 2, h, w]`` is the position ``(x, y)`` of the
    object's centre relative to the upper left corner of its cell, in cells.

    Args:
        spec: Levels of the input maps.
        num_classes: Number of classes.
        neck: Builds the module that merges all levels into one map.
        channels: Number of channels between the two convolutions of each output's branch.
        max_detections: Maximum number of detections per frame, over all classes.
        min_overlap: Defines the radius of the Gaussians in the target heatmap: if the corners of an
            object's box move by the radius, the IoU with the original box is at least this value.
        heatmap_weight: Weight of the loss of the heatmap.
        size_weight: Weight of the loss of the size.
        offset_weight: Weight of the loss of the offset.

    Raises:
        ConfigError: If the neck returns more than one level.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        num_classes: int,
        *,
        neck: PyramidFactory,
        channels: int = 256,
        max_detections: int = 100,
        min_overlap: float = 0.3,
        heatmap_weight: float = 1.0,
        size_weight: float = 0.1,
        offset_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.neck = neck(spec)
        if len(self.neck.spec.strides) != 1:
            msg = (
                "CenterNetHead needs a neck that merges all levels into one map, such as SumNeck; "
                f"{type(self.neck).__name__} returns maps with strides {self.neck.spec.strides}."
            )
            raise ConfigError(msg)
        (width,), (self.stride,) = self.neck.spec.channels, self.neck.spec.strides
        self.max_detections = max_detections
        self.min_overlap = min_overlap
        self.weights = {"heatmap": heatmap_weight, "size": size_weight, "offset": offset_weight}
        self.heatmap = Branch(width, channels, num_classes)
        self.size = Branch(width, channels, 2)
        self.offset = Branch(width, channels, 2)
        nn.init.constant_(self.heatmap.out.get_parameter("bias"), -math.log(1 / INITIAL_SCORE - 1))

    def predict(self, maps: FeatureMaps) -> dict[str, Tensor]:
        """Return ``heatmap``, ``size`` and ``offset`` for maps ``[B, C, h, w]`` of each level."""
        (x,) = self.neck(maps).levels
        return {"heatmap": self.heatmap(x), "size": self.size(x), "offset": self.offset(x)}

    def forward(self, windows: WindowBatch, state: State) -> tuple[dict[str, Tensor], State]:
        """Return the outputs of `predict` for the reference frames, and the unchanged state."""
        return self.predict(windows.reference_maps), state

    def losses(
        self, windows: WindowBatch, targets: Targets, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """Return `criterion` for the annotated reference frames, and the unchanged state."""
        wanted = [clip[windows.reference] for clip in targets]
        known = [target for target in wanted if target is not None]
        outputs = self.predict(windows.reference_maps)
        if not known:  # a loss of 0 that still gives every weight a gradient
            return {name: 0 * output.sum() for name, output in outputs.items()}, state
        if len(known) < len(wanted):
            rows = [row for row, target in enumerate(wanted) if target is not None]
            outputs = {name: output[rows] for name, output in outputs.items()}
        return self.criterion(outputs, known), state

    def criterion(self, outputs: dict[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the weighted losses ``heatmap``, ``size`` and ``offset``.

        Each loss is a sum over the batch, divided by the number of positives (heatmap targets that
        are exactly 1; at least 1). Size and offset have two entries per object, so their sums are
        divided by twice the number of positives.

        Args:
            outputs: Output of `predict` for ``B`` frames.
            targets: Objects of the ``B`` frames, in input pixels.
        """
        outputs = {name: output.float() for name, output in outputs.items()}
        shape = outputs["heatmap"].shape[1:]
        truth = center_targets(targets, shape, self.stride, self.min_overlap)
        positives = truth.heatmap.eq(1).sum().clamp(min=1)
        size, offset = (
            outputs[name].flatten(2)[truth.images, :, truth.cells] for name in ("size", "offset")
        )
        losses = {
            "heatmap": focal_loss(outputs["heatmap"], truth) / positives,
            "size": (size - truth.sizes).abs().sum() / (2 * positives),
            "offset": (offset - truth.offsets).abs().sum() / (2 * positives),
        }
        return {name: self.weights[name] * loss for name, loss in losses.items()}

    def best(self, outputs: dict[str, Tensor]) -> Detections:
        """Return the highest peaks of each heatmap; if there are too few, the rest is padding."""
        scores = outputs["heatmap"].float().sigmoid()
        is_peak = scores == F.max_pool2d(scores, kernel_size=3, stride=1, padding=1)
        peaks = (scores * is_peak).flatten(1)
        scores, index = peaks.topk(min(self.max_detections, peaks.shape[1]))
        height, width = outputs["heatmap"].shape[-2:]
        labels, cells = index // (height * width), index % (height * width)
        size, offset = (
            outputs[name].float().flatten(2).gather(2, cells.unsqueeze(1).expand(-1, 2, -1))
            for name in ("size", "offset")
        )
        center = torch.stack((cells % width, cells // width), dim=1) + offset
        boxes = self.stride * torch.cat((center - size / 2, center + size / 2), dim=1)
        return Detections(boxes=boxes.transpose(1, 2), scores=scores, labels=labels)
