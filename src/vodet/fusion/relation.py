"""Relation attention: attention between RoIs, by feature similarity and relative geometry.

Sources: H. Hu et al., "Relation Networks for Object Detection" (arXiv 1711.11575), equations 2 to
6; J. Deng et al., "Relation Distillation Networks for Video Object Detection" (arXiv 1908.09511);
hyperparameters are from D. Cores et al., "Short-term anchor linking and long-term self-guided
attention for video object detection", Image and Vision Computing, 2021.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

_SCALE, _WAVELENGTH = 100.0, 1000.0
_FLOOR = 1e-6  # added to geometric weights before taking the logarithm


def relative_geometry(
    boxes: Float[Tensor, "*B N 4"], keys: Float[Tensor, "*B M 4"]
) -> Float[Tensor, "*B N M 4"]:
    """Return the geometry of each key's box relative to each box, as four numbers.

    They are ``(log(|dx| / w + 1e-3), log(|dy| / h + 1e-3), log(w / w_key), log(h / h_key))``, where
    dx and dy are the distances between the centres, and w and h are width and height of the box,
    with ``w = x2 - x1 + 1``.

    Args:
        boxes: Boxes of the queries, xyxy in pixels.
        keys: Boxes of the keys, xyxy in pixels.
    """
    sides, key_sides = boxes[..., 2:] - boxes[..., :2] + 1, keys[..., 2:] - keys[..., :2] + 1
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    key_centers = (keys[..., :2] + keys[..., 2:]) / 2
    distance = (centers.unsqueeze(-2) - key_centers.unsqueeze(-3)).abs() / sides.unsqueeze(-2)
    ratio = sides.log().unsqueeze(-2) - key_sides.log().unsqueeze(-3)
    return torch.cat(((distance + 1e-3).log(), ratio), dim=-1)


def geometry_embedding(
    geometry: Float[Tensor, "*B N M 4"], width: int
) -> Float[Tensor, "*B N M width"]:
    """Return sines and cosines of 100 times each of the four numbers of `relative_geometry`.

    The numbers are divided by the wavelengths ``1000^(k / (width / 8))`` for k from 0 to
    ``width / 8 - 1``.

    Args:
        geometry: The result of `relative_geometry`.
        width: Length of the embedding, a multiple of 8.
    """
    steps = torch.arange(width // 8, device=geometry.device)
    wavelengths = _WAVELENGTH ** (steps * (8 / width))
    phase = _SCALE * geometry.unsqueeze(-1) / wavelengths  # [*B, N, M, 4, width / 8]
    return torch.cat((phase.sin(), phase.cos()), dim=-1).flatten(-2)


class RelationAttention(nn.Module):
    """Multi-head attention with an optional geometry term in the logits.

    The logits are ``q . k / sqrt(d) + log(relu(w e) + 1e-6)``, where e is the embedded geometry of
    a query's and a key's box. As in equation 2 of Relation Networks, the value layer is applied
    to the features of each key before the weighted sum. Applying it after the sum gives the same
    result, but ``scaled_dot_product_attention`` would have to sum wider values.

    Args:
        width: Number of features.
        groups: Number of attention heads.
        geometry: Whether the geometry term is added to the logits.
        value_std: Standard deviation of the initial weights of the values; with 0, the attention
            starts by returning zeros.
    """

    def __init__(
        self, width: int = 1024, groups: int = 16, *, geometry: bool = True, value_std: float = 0.01
    ) -> None:
        super().__init__()
        self.groups = groups
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.geometry = nn.Linear(width // groups, groups) if geometry else None
        for layer in (self.query, self.key):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.normal_(self.value.weight, std=value_std)
        if self.geometry is not None:
            nn.init.normal_(self.geometry.weight, std=0.01)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def _split(self, x: Float[Tensor, "B n D"]) -> Float[Tensor, "B G n d"]:
        groups: Tensor = x.unflatten(2, (self.groups, x.shape[2] // self.groups))  # type: ignore[no-untyped-call]  # untyped in torch
        return groups.transpose(1, 2)

    def bias(
        self, embedding: Float[Tensor, "B N M d"] | None, is_key: Bool[Tensor, "B M"]
    ) -> Float[Tensor, "B G N M"]:
        """Return what `forward` adds to the logits: the geometry term, or -inf for invalid keys.

        Args:
            embedding: Embedded geometry of each query and key; None for no geometry term.
            is_key: Which keys are valid.
        """
        allowed = torch.zeros_like(is_key, dtype=torch.float).masked_fill(~is_key, -math.inf)
        if self.geometry is None or embedding is None:
            return allowed[:, None, None, :]
        weights = F.relu(self.geometry(embedding)).float().permute(0, 3, 1, 2)
        # scaled_dot_product_attention would copy a bias that is not contiguous, more slowly.
        return (weights.contiguous() + _FLOOR).log() + allowed[:, None, None, :]

    def project(self, keys: Float[Tensor, "*M D"]) -> Float[Tensor, "*M D2"]:
        """Return keys and values of candidates, concatenated, as `forward` needs them.

        Args:
            keys: Features of the candidates.
        """
        return torch.cat((self.key(keys), self.value(keys)), dim=-1)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        projected: Float[Tensor, "B M D2"],
        bias: Float[Tensor, "B _ _ M"],
        weights_of: int = 0,
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B _ M"]]:
        """Return the attended features of each query, and attention weights averaged over heads.

        Args:
            x: Features of the candidates that are queries.
            projected: Keys and values, from `project`.
            bias: Bias of the logits, from the method `bias`.
            weights_of: The attention weights of this many queries, the first ones, are returned.
        """
        query, key, value = map(self._split, (self.query(x), *projected.chunk(2, dim=2)))
        bias = bias.to(query.dtype)
        gathered = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        logits = query[:, :, :weights_of] @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        weights = (logits + bias[:, :, :weights_of]).softmax(dim=3).mean(dim=1)
        return gathered.transpose(1, 2).flatten(2), weights
