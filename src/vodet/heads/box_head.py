"""Box head: predicts classes and boxes from RoI features, and combines the scores of two heads.

Sources: R. Girshick, "Fast R-CNN" (arXiv 1504.08083); for the double head, D. Cores et al.,
"Short-term anchor linking and long-term self-guided attention for video object detection" (2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from vodet.encodings import CandidateSpec
from vodet.heads.anchors import decode_boxes, encode_boxes
from vodet.heads.suppression import suppress
from vodet.structures import Detections

DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True)
class RoILayers:
    """How many layers turn the grid of features of a RoI into a vector.

    Args:
        convs: Number of 3 x 3 convolutions, each with batch norm and ReLU.
        linears: Number of fully connected layers after the convolutions, each with ReLU.
    """

    convs: int = 0
    linears: int = 2


LAYERS = RoILayers()


class RoIEncoder(nn.Sequential):
    """Turns the grid of features of a RoI into a vector.

    Args:
        spec: Shape of the grid.
        width: Width of the fully connected layers.
        layers: Number of convolutions and of fully connected layers.
    """

    def __init__(self, spec: CandidateSpec, width: int, layers: RoILayers = LAYERS) -> None:
        widths = [spec.width] + [width] * layers.linears
        super().__init__(
            *(Conv2dNormActivation(spec.channels, spec.channels) for _ in range(layers.convs)),
            nn.Flatten(),
            *(
                layer
                for before, after in pairwise(widths)
                for layer in (nn.Linear(before, after), nn.ReLU())
            ),
        )

    def forward(self, features: Float[Tensor, "*n C s s"]) -> Float[Tensor, "*n D"]:
        """Return a feature vector for each RoI."""
        x = features.flatten(0, -4)
        for layer in self:
            x = layer(x)
        return x.view(*features.shape[:-3], x.shape[1])


def encoder_of(
    spec: CandidateSpec, width: int, layers: RoILayers = LAYERS
) -> tuple[nn.Module, int]:
    """Return a module that turns a candidate's features into a vector, and the vector's length.

    Args:
        spec: Shape of a candidate's features. A single vector (``resolution`` 1) stays unchanged.
        width: Width of the fully connected layers for a grid of features.
        layers: Number of convolutions and of fully connected layers for a grid of features.
    """
    if spec.resolution == 1:
        return nn.Flatten(-3), spec.width
    return RoIEncoder(spec, width, layers), width


class BoxHead(nn.Module):
    """Predicts the class logits of candidates, and box deltas for each class.

    Args:
        spec: Shape of a candidate's features; a grid (``resolution`` above 1) passes through
            ``layers`` first.
        num_classes: Number of classes, without background.
        width: Width of the fully connected layers.
        layers: Number of convolutions and of fully connected layers for a grid.
    """

    def __init__(
        self,
        spec: CandidateSpec,
        num_classes: int,
        width: int = 1024,
        layers: RoILayers = LAYERS,
    ) -> None:
        super().__init__()
        self.encoder, width = encoder_of(spec, width, layers)
        self.classifier = nn.Linear(width, num_classes + 1)
        self.regressor = nn.Linear(width, 4 * num_classes)
        for layer, std in ((self.classifier, 0.01), (self.regressor, 0.001)):  # as in Fast R-CNN
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(
        self, features: Float[Tensor, "*n C s s"]
    ) -> tuple[Float[Tensor, "*n K1"], Float[Tensor, "*n K 4"]]:
        """Return class logits, with background last, and box deltas per class, both float32."""
        x = self.encoder(features)
        return self.classifier(x).float(), self.regressor(x).unflatten(-1, (-1, 4)).float()

    @staticmethod
    def losses(
        logits: Float[Tensor, "S K1"],
        deltas: Float[Tensor, "S K 4"],
        proposals: Float[Tensor, "S 4"],
        labels: Int[Tensor, " S"],
        objects: Float[Tensor, "S 4"],
    ) -> dict[str, Tensor]:
        """Return the losses ``class`` (mean cross-entropy) and ``box`` (L1 of the deltas).

        ``box`` is the sum over the positive RoIs, divided by the number of all sampled RoIs.

        Args:
            logits: Class logits of the sampled RoIs.
            deltas: Box deltas of the sampled RoIs, for each class.
            proposals: Boxes of the sampled RoIs.
            labels: Target classes of the RoIs; ``K`` for background.
            objects: Box of the object that each RoI is matched to; ignored for background.
        """
        positive = (labels < deltas.shape[1]).nonzero()[:, 0]
        wanted = encode_boxes(objects[positive], proposals[positive], DELTA_WEIGHTS)
        box_loss = (deltas[positive, labels[positive]] - wanted).abs().sum()
        return {
            "class": class_loss(logits, labels),
            "box": box_loss / max(len(labels), 1),
        }


def class_loss(logits: Float[Tensor, "S K1"], labels: Int[Tensor, " S"]) -> Tensor:
    """Return the mean cross-entropy of the class logits of RoIs; 0 if there are no RoIs."""
    return F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)


def joined_scores(
    spatial: Float[Tensor, "*n K1"], spatio_temporal: Float[Tensor, "*n K1"]
) -> Float[Tensor, "*n K1"]:
    """Return ``p_s + p_st * (1 - p_s)``, where p_s and p_st are the softmax of the two logits.

    The result is not normalised again, so the scores of a candidate may add up to more than 1.
    """
    p_s, p_st = spatial.softmax(dim=-1), spatio_temporal.softmax(dim=-1)
    return p_s + p_st * (1 - p_s)


def class_boxes(
    deltas: Float[Tensor, "*n K 4"], proposals: Float[Tensor, "*n 4"]
) -> Float[Tensor, "*n K 4"]:
    """Apply the deltas of each class to the proposals.

    Returns:
        A box per class for each proposal, in input pixels, not clipped to the picture.
    """
    return decode_boxes(deltas, proposals.unsqueeze(-2), DELTA_WEIGHTS)


def detections_of(
    scores: Float[Tensor, "B N K"],
    boxes: Float[Tensor, "B N K 4"],
    is_valid: Bool[Tensor, "B N"],
    score_threshold: float,
    nms_iou: float,
    max_detections: int,
    min_size: float = 0.0,
) -> Detections:
    """Return what `Head.best` returns: the detections of each frame after suppression.

    Only detections of the same class suppress each other.

    Args:
        scores: Score of each candidate for each class.
        boxes: Box of each candidate for each class, in input pixels.
        is_valid: Which candidates exist; the others are padding.
        score_threshold: Minimum score of a detection (exclusive).
        nms_iou: IoU threshold of non-maximum suppression.
        max_detections: Maximum number of detections per frame.
        min_size: Minimum length of the sides of a detection (exclusive), in input pixels.
    """
    has_extent = (boxes[..., 2:] - boxes[..., :2] > min_size).all(dim=-1)
    is_found = ((scores > score_threshold) & has_extent & is_valid.unsqueeze(2)).flatten(1)
    labels = torch.arange(scores.shape[2], device=scores.device).repeat(scores.shape[1])
    flat_scores, flat_boxes = scores.flatten(1), boxes.flatten(1, 2)
    groups = labels.expand_as(flat_scores)
    capacity = min(max_detections, flat_scores.shape[1])
    rows, is_kept = suppress(flat_boxes, flat_scores, groups, is_found, nms_iou, capacity)
    return Detections(
        boxes=flat_boxes.gather(1, rows.unsqueeze(2).expand(-1, -1, 4)),
        scores=flat_scores.gather(1, rows).masked_fill(~is_kept, 0),
        labels=labels[rows],
    )
