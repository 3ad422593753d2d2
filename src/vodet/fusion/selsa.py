"""SELSA: candidates attend to similar candidates in all frames, regardless of position.

Source: H. Wu et al., "Sequence Level Semantics Aggregation for Video Object Detection" (arXiv
1907.06390), as in the code of mmtracking. Two choices are ours: only the best candidates of each
frame are keys, and candidates of the reference frame are always among the keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from vodet.encodings import Candidates, CandidateSpec, State
from vodet.errors import ConfigError
from vodet.stages import CandidateFusion


class SELSA(CandidateFusion):
    """The reference frame's candidates attend to the candidates of all frames, layer by layer.

    Layer i is ``x = relu(fc_i(x) + A_i(fc_i(x), fc_i(k)))`` and ``k = relu(fc_i(k))``, where x are
    the candidates of the reference frame, k the candidates of all frames (the keys) and ``A(q, k) =
    W_o concat_h softmax(q_h k_h^T / sqrt(d)) v_h``. The keys do not depend on x, so they are
    computed once per frame. If there are no keys, ``x = relu(fc_i(x))``.

    In SELSA, both classes and boxes are predicted from the result: use a head with
    ``refine=boxes``.

    Args:
        spec: Shape of a candidate's features.
        width: Number of output features.
        heads: Number of attention heads.
        layers: Number of layers.
        keys_per_frame: Number of candidates of each frame that are keys: the best. The paper uses
            all 300.

    Raises:
        ConfigError: If ``width`` is not a multiple of ``heads``, or a number is not positive.
    """

    joins_frames = False  # of support frames, it uses only what `encode_candidates` returned

    def __init__(
        self,
        spec: CandidateSpec,
        *,
        width: int = 1024,
        heads: int = 16,
        layers: int = 2,
        keys_per_frame: int = 75,
    ) -> None:
        super().__init__()
        if min(width, heads, layers, keys_per_frame) < 1 or width % heads:
            msg = (
                "SELSA: expected positive numbers, and a width that is a multiple of heads; found "
                f"{width=}, {heads=}, {layers=}, {keys_per_frame=}."
            )
            raise ConfigError(msg)
        self.spec = CandidateSpec(width)
        self.keys_per_frame = keys_per_frame
        widths = [spec.width, *[width] * layers]
        self.fcs = nn.ModuleList(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(widths))
        self.attentions = nn.ModuleList(SemanticAttention(width, heads) for _ in range(layers))

    def _layers(self) -> list[tuple[nn.Module, SemanticAttention]]:
        return list(
            zip(self.fcs, cast("Iterable[SemanticAttention]", self.attentions), strict=True)
        )

    def encode_candidates(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return the keys and values of all layers, and which candidates are keys.

        ``keys`` is ``[F, M, 2 * layers * width]``, and ``is_key`` is ``[F, M]``.
        """
        k, projected = candidates.features[0].flatten(2), []
        for fc, attention in self._layers():
            k = fc(k)
            projected.append(attention.project(k))
            k = F.relu(k)
        return {"keys": torch.cat(projected, dim=2), "is_key": candidates.is_valid[:, 0]}

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        """Return the reference frames' candidates after attention, and the unchanged state."""
        keys = candidates.extras["keys"].flatten(1, 2).chunk(len(self.attentions), dim=2)
        is_key = candidates.extras["is_key"].flatten(1)
        x = candidates.current.features[0].flatten(2)
        for (fc, attention), projected in zip(self._layers(), keys, strict=True):
            x = fc(x)
            x = F.relu(x + attention(x, projected.to(x.dtype), is_key))
        return candidates.fused(x[..., None, None]), state


class SemanticAttention(nn.Module):
    """Multi-head attention, with keys and values that are computed once per frame.

    Args:
        width: Number of features.
        heads: Number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def project(self, k: Float[Tensor, "*M D"]) -> Float[Tensor, "*M D2"]:
        """Return keys and values of candidates, concatenated, as `forward` needs them.

        Args:
            k: Features of the candidates.
        """
        return torch.cat((self.key(k), self.value(k)), dim=-1)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        projected: Float[Tensor, "B M D2"],
        is_key: Bool[Tensor, "B M"],
    ) -> Float[Tensor, "B N D"]:
        """Return the attended features of each query; zeros for windows without keys.

        Args:
            x: Features of the candidates that are queries.
            projected: Keys and values, from `project`.
            is_key: Which keys are valid.
        """
        is_there = is_key.any(dim=1)
        allowed = (is_key | ~is_there.unsqueeze(1))[:, None, None]  # avoids a softmax over no keys
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), *projected.chunk(2, dim=2))
        )
        gathered = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        added: Tensor = self.out(gathered.transpose(1, 2).flatten(2))
        return added * is_there.view(-1, 1, 1)
