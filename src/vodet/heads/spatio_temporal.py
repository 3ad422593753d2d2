"""The spatio-temporal head: a second classifier, which works on temporally fused features.

Source: D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided
attention for video object detection", Image and Vision Computing, 2021.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from vodet.encodings import CandidateSpec
from vodet.heads.box_head import LAYERS, RoILayers, encoder_of


class SpatioTemporalHead(nn.Module):
    """Predicts class logits of candidates from temporally fused features.

    Args:
        spec: Shape of a candidate's features; a grid (``resolution`` above 1) passes through
            ``layers`` first.
        num_classes: Number of classes, without background.
        width: Width of the fully connected layers.
        layers: Number of convolutions and of fully connected layers for a grid.
    """

    def __init__(
        self, spec: CandidateSpec, num_classes: int, width: int, layers: RoILayers = LAYERS
    ) -> None:
        super().__init__()
        self.encoder, width = encoder_of(spec, width, layers)
        self.classifier = nn.Linear(width, num_classes + 1)

    def forward(self, features: Float[Tensor, "*n C s s"]) -> Float[Tensor, "*n K1"]:
        """Return the class logits of each candidate, float32, with background last."""
        logits: Tensor = self.classifier(self.encoder(features))
        return logits.float()
