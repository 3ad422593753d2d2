"""Query attention: candidates attend to the best candidates of all frames, from coarse to fine.

Source: L. He et al., "End-to-End Video Object Detection with Spatial-Temporal Transformers" (arXiv
2105.10920) and its successors (TransVOD, arXiv 2201.05047), as in the authors' code. Three choices
are ours: every frame contributes the same number of keys, ranked by the score of the best class;
candidates of the reference frame are always among the keys; and there is no second decoder on the
reference frame's feature maps, which a candidate fusion does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from jaxtyping import Bool, Float
from torch import Tensor, nn

from vodet.encodings import Candidates, CandidateSpec, State
from vodet.errors import ConfigError
from vodet.fusion.selsa import SemanticAttention
from vodet.stages import CandidateFusion


class QueryAttention(CandidateFusion):
    """Transformer layers: the reference frame's candidates attend to candidates of all frames.

    A layer is ``x = norm(x + self_attention(x)); x = norm(x + attention(x, keys));
    x = norm(x + ffn(x))``, without position embeddings. The keys of every layer are the candidates
    that the head found, before any fusion, so they are projected once per frame. Later layers
    usually have fewer keys per frame. The order of the frames has no effect.

    Args:
        spec: Shape of a candidate's features; a linear layer converts them if they are not
            ``width`` features.
        width: Number of output features.
        heads: Number of attention heads.
        stages: For each layer, the number of best candidates per frame that are keys.
        feedforward: Width of the feed-forward layers.
        dropout: Share of features dropped after each sublayer, in training.

    Raises:
        ConfigError: If ``width`` is not a multiple of ``heads``, or a number is out of range.
    """

    joins_frames = False  # it uses only what was encoded from support frames

    def __init__(
        self,
        spec: CandidateSpec,
        *,
        width: int = 1024,
        heads: int = 8,
        stages: Sequence[int] = (80, 50, 30),
        feedforward: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        numbers = (width, heads, feedforward, *stages)
        if min(numbers) < 1 or not stages or width % heads or not 0 <= dropout < 1:
            msg = (
                "QueryAttention: expected positive numbers, at least one stage, a width that is a "
                f"multiple of heads, and 0 <= dropout < 1; found {width=}, {heads=}, "
                f"stages={list(stages)}, {feedforward=}, {dropout=}."
            )
            raise ConfigError(msg)
        self.spec = CandidateSpec(width)
        self.stages = tuple(stages)
        self.keys_per_frame = max(stages)
        is_wide = spec.width == width
        self.embedding = nn.Identity() if is_wide else nn.Linear(spec.width, width)
        self.layers = nn.ModuleList(QueryLayer(width, heads, feedforward, dropout) for _ in stages)

    def _layers(self) -> list[tuple[int, QueryLayer]]:
        layers = cast("Iterable[QueryLayer]", self.layers)
        return list(zip(self.stages, layers, strict=True))

    def encode_candidates(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return each layer's keys and values, ``[F, n, 2 * width]``, and ``is_key`` ``[F, n]``."""
        keys = self.embedding(candidates.features[0].flatten(2))
        projected = {
            f"keys_{number}": layer.attention.project(keys[:, :count])
            for number, (count, layer) in enumerate(self._layers())
        }
        return {**projected, "is_key": candidates.is_valid[:, 0]}

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        """Return the reference frames' candidates after all layers, and the unchanged state."""
        current, extras = candidates.current, candidates.extras
        x = self.embedding(current.features[0].flatten(2))
        for number, (count, layer) in enumerate(self._layers()):
            is_key = extras["is_key"][:, :, :count].flatten(1)
            keys = extras[f"keys_{number}"].flatten(1, 2).to(x.dtype)
            x = layer(x, current.is_valid[:, 0], keys, is_key)
        return candidates.fused(x[..., None, None]), state


class QueryLayer(nn.Module):
    """A transformer layer: self-attention, attention to keys, and a feed-forward network.

    Each of the three has a residual connection, followed by layer norm.

    Args:
        width: Number of features.
        heads: Number of attention heads.
        feedforward: Width of the feed-forward layers.
        dropout: Share of features dropped after each sublayer, in training.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = SemanticAttention(width, heads)
        self.attention = SemanticAttention(width, heads)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feedforward, width),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        is_valid: Bool[Tensor, "B N"],
        keys: Float[Tensor, "B M D2"],
        is_key: Bool[Tensor, "B M"],
    ) -> Float[Tensor, "B N D"]:
        """Return the features of the candidates after the layer.

        Args:
            x: Features of the candidates of the reference frames.
            is_valid: Which of these candidates the self-attention uses as keys.
            keys: Concatenated keys and values of the candidates of all frames.
            is_key: Which of these candidates are used as keys.
        """
        own = self.self_attention.project(x)
        x = self.norms[0](x + self.dropout(self.self_attention(x, own, is_valid)))
        x = self.norms[1](x + self.dropout(self.attention(x, keys, is_key)))
        refined: Tensor = self.norms[2](x + self.dropout(self.feedforward(x)))
        return refined
