"""Aggregation of an object's features over the frames of the window.

Source: D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided
attention for video object detection", Image and Vision Computing, 2021, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vodet.encodings import RoIs, RoISpec, TemporalMemory
from vodet.errors import ConfigError

MODES = ("max", "adaptive", "none")


class TubeletAggregation(nn.Module):
    """Joins the features of linked RoIs into those of the reference frame.

    ``max``: the element-wise maximum over frames. ``adaptive``: in each cell, the mean over frames
    weighted by the softmax of the cosine similarities to the reference frame. ``none``: the
    reference frame's own.

    Args:
        spec: Features of a RoI.
        mode: One of these.

    Raises:
        ConfigError: If ``mode`` is none of them.
    """

    def __init__(self, spec: RoISpec, mode: str = "max") -> None:
        super().__init__()
        if mode not in MODES:
            msg = f"TubeletAggregation: mode must be one of {', '.join(MODES)}; found {mode!r}."
            raise ConfigError(msg)
        self.spec = spec
        self.mode = mode
        self.joins_frames = mode != "none"

    def forward(
        self, rois: RoIs, memories: Sequence[TemporalMemory]
    ) -> tuple[RoIs, list[TemporalMemory]]:
        """Aggregate features ``[B, T, N, C, s, s]`` into ``[B, 1, N, C, s, s]``."""
        if self.mode == "max":
            features = rois.features.amax(dim=1)
        elif self.mode == "adaptive":
            features = adaptive_mean(rois.features, rois.reference)
        else:
            features = rois.features[:, rois.reference]
        return rois.fused(features), list(memories)


def adaptive_mean(
    features: Float[Tensor, "B T N C s s"], reference: int
) -> Float[Tensor, "B N C s s"]:
    """Return the mean over frames, weighted in each cell by similarity to the reference frame."""
    own = features[:, reference].unsqueeze(1)
    weights = F.cosine_similarity(features.float(), own.float(), dim=3).softmax(dim=1)  # [BTNss]
    return torch.einsum("btncij,btnij->bncij", features, weights.to(features.dtype))
