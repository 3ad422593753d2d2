"""Aggregates the features of linked candidates over the frames of the window.

Source: D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided
attention for video object detection", Image and Vision Computing, 2021, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vodet.encodings import Candidates, CandidateSpec, State
from vodet.errors import ConfigError
from vodet.stages import CandidateFusion

MODES = ("max", "adaptive", "none")


class TubeletAggregation(CandidateFusion):
    """Aggregates the features of linked candidates over all frames of the window.

    ``max`` takes the element-wise maximum over frames. ``adaptive`` takes a weighted mean over
    frames, separately in each cell of the RoI's grid; the weights are the softmax of the cosine
    similarities to the features of the reference frame. ``none`` keeps the features of the
    reference frame.

    Args:
        spec: Shape of a candidate's features.
        mode: ``max``, ``adaptive`` or ``none``.

    Raises:
        ConfigError: If ``mode`` is unknown.
    """

    def __init__(self, spec: CandidateSpec, mode: str = "max") -> None:
        super().__init__()
        if mode not in MODES:
            msg = f"TubeletAggregation: mode must be one of {', '.join(MODES)}; found {mode!r}."
            raise ConfigError(msg)
        self.spec = spec
        self.mode = mode
        self.needs_links = self.joins_frames = mode != "none"

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        """Return the reference frames' candidates with aggregated features, and the state."""
        features = candidates.features
        fused = own = features[candidates.reference]
        if self.mode == "max":
            fused = reduce(torch.maximum, features)
        elif self.mode == "adaptive":
            fused = adaptive_mean(features, own)
        return candidates.fused(fused), state


def adaptive_mean(
    features: Sequence[Float[Tensor, "B N C s s"]], own: Float[Tensor, "B N C s s"]
) -> Float[Tensor, "B N C s s"]:
    """Return the mean over frames, weighted in each cell by the similarity to ``own``.

    Args:
        features: Features of the same candidates in each frame.
        own: Features of these candidates in the reference frame.
    """
    similarities = [F.cosine_similarity(frame.float(), own.float(), dim=2) for frame in features]
    weights = torch.stack(similarities).softmax(dim=0).to(own.dtype)  # [T, B, N, s, s]
    pairs = zip(features, weights, strict=True)
    mean: Tensor = reduce(torch.add, (frame * weight.unsqueeze(2) for frame, weight in pairs))
    return mean
