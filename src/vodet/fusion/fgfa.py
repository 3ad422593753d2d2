"""Flow-guided feature aggregation: maps of support frames, warped by optical flow.

Source: X. Zhu et al., "Flow-Guided Feature Aggregation for Video Object Detection" (arXiv
1703.10025). The flow network is torchvision's small RAFT: Z. Teed, J. Deng, "RAFT: Recurrent
All-Pairs Field Transforms for Optical Flow" (arXiv 2003.12039); the paper uses FlowNet. Two changes
are ours: maps and embeddings are warped together, also in training, and the reference frame is
always part of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.optical_flow import Raft_Small_Weights, raft_small
from torchvision.models.optical_flow.raft import CorrBlock

from vodet.encodings import FeatureMaps, FeatureSpec, State, WindowBatch
from vodet.errors import CheckpointError
from vodet.pretrained import allowed_source
from vodet.stages import MapFusion

_STRIDE, _SMALLEST = 8, 128  # RAFT's features have stride 8; its pictures, sides of 128 or more
_CORRELATION_LEVELS, _CORRELATION_RADIUS = 4, 3  # as in torchvision's raft_small


class FGFA(MapFusion):
    """Averages maps warped to the reference frame, weighted by their similarity to it.

    ``w_j = softmax_j(cos(E(f_j), E(f_i)) / temperature)`` in each cell, where the embedding E of
    a map is warped together with the map; the result is ``sum_j w_j f_j`` over all frames of the
    window.

    The flow network sees the black padding of a frame, which may depend on the other clips of the
    batch.

    The embeddings and RAFT's features of the downscaled picture are computed once per frame; the
    flow of all pairs in a step is computed in one call.

    Args:
        spec: Levels of the maps.
        embedding_width: Channels of the embeddings.
        temperature: Divides the cosines, which lie in [-1, 1]; lower values are more selective.
        picture_scale: Size of the downscaled pictures for the flow network, relative to the frames;
            their sides are at least 128 pixels.
        flow_updates: Iterations of RAFT.
        pretrained: Load torchvision's weights of the flow network, from its cache or the hub. If
            False, the network initially predicts zero flow and is trained with the detector.
        checkpoint_path: Load the weights of ``raft_small`` from this file instead; no code in the
            file is executed.

    Raises:
        CheckpointError: If the weights cannot be loaded.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        *,
        embedding_width: int = 256,
        temperature: float = 1.0,
        picture_scale: float = 0.5,
        flow_updates: int = 6,
        pretrained: bool = False,
        checkpoint_path: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.picture_scale = picture_scale
        self.flow_updates = flow_updates
        self.flow = _flow_network(*allowed_source(pretrained, checkpoint_path))
        self.embeddings = nn.ModuleList(
            _embedding(channels, embedding_width) for channels in spec.channels
        )

    def encode(self, pixels: Tensor, sizes: Tensor, maps: FeatureMaps) -> dict[str, Tensor]:
        """Return embeddings of the maps, and RAFT's features of each downscaled picture.

        ``embedding_LEVEL`` ``[F, D, h, w]``, ``flow_features`` and ``flow_context``
        ``[F, C, h / 8, w / 8]`` for a downscaled picture of ``h x w``.
        """
        pictures = self._pictures(pixels)
        encoded = {
            "flow_features": self.flow.feature_encoder(pictures),
            "flow_context": self.flow.context_encoder(pictures),
        }
        for number, (embed, level) in enumerate(zip(self.embeddings, maps.levels, strict=True)):
            encoded[f"embedding_{number}"] = embed(level)
        return encoded

    def _pictures(self, pixels: UInt8[Tensor, "F 3 H W"]) -> Float[Tensor, "F 3 h w"]:
        sides = [round(side * self.picture_scale / _STRIDE) * _STRIDE for side in pixels.shape[2:]]
        size = [max(side, _SMALLEST) for side in sides]
        return F.interpolate(pixels / 127.5 - 1, size=size, mode="bilinear", antialias=True)

    def forward(self, windows: WindowBatch, state: State) -> tuple[FeatureMaps, State]:
        """Aggregate the maps of all frames of the windows."""
        support = [p for p in range(windows.index.shape[1]) if p != windows.reference]
        if not support:
            return windows.reference_maps, state
        flow = self._flow(windows, support)
        flows = flow.view(len(windows), len(support), *flow.shape[1:]).unbind(dim=1)
        levels = range(len(self.embeddings))
        fused = [self._aggregated(windows, level, support, flows) for level in levels]
        return FeatureMaps(tuple(fused)), state

    def _flow(self, windows: WindowBatch, support: list[int]) -> Float[Tensor, "P 2 h w"]:
        """Return the flow from reference to support frames, relative to the picture size."""
        features, context = windows.extra("flow_features"), windows.extra("flow_context")
        reference = [windows.reference] * len(support)
        first, second = features[:, reference].flatten(0, 1), features[:, support].flatten(0, 1)
        context = context[:, reference].flatten(0, 1)
        correlation = CorrBlock(num_levels=_CORRELATION_LEVELS, radius=_CORRELATION_RADIUS)
        correlation.build_pyramid(first.float(), second.float())
        hidden_width = self.flow.update_block.hidden_state_size
        hidden, context = context[:, :hidden_width].tanh(), context[:, hidden_width:].relu()
        start = _cells(first)
        places = start
        for _ in range(self.flow_updates):
            places = places.detach()  # as in RAFT: gradients flow through the hidden state
            found = correlation.index_pyramid(centroids_coords=places)
            hidden, change = self.flow.update_block(hidden, context, found, places - start)
            places = places + change
        x, y = (places - start).unbind(dim=1)
        height, width = first.shape[-2:]
        return torch.stack((x / width, y / height), dim=1)

    def _aggregated(
        self,
        windows: WindowBatch,
        number: int,
        support: Sequence[int],
        flows: Sequence[Float[Tensor, "B 2 _ _"]],
    ) -> Float[Tensor, "B C h w"]:
        """Average the maps of a level, one frame at a time to limit memory use."""
        level = windows.frames.maps.levels[number]
        embedding = windows.frames.extras[f"embedding_{number}"]
        rows = windows.index[:, windows.reference]
        own = embedding[rows]
        total = self._weight(own, own)
        weighted = total * level[rows]
        for place, flow in zip(support, flows, strict=True):
            rows = windows.index[:, place]
            both = warp(torch.cat((level[rows], embedding[rows].to(level.dtype)), dim=1), flow)
            weight = self._weight(both[:, level.shape[1] :], own)
            weighted, total = weighted + weight * both[:, : level.shape[1]], total + weight
        return (weighted / total).to(level.dtype)

    def _weight(
        self, key: Float[Tensor, "B D h w"], own: Float[Tensor, "B D h w"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Return ``exp((cosine - 1) / temperature)``, which is at most 1."""
        cosine = F.cosine_similarity(key.float(), own.float(), dim=1, eps=1e-6)
        return ((cosine - 1) / self.temperature).exp().unsqueeze(1)


def warp(
    maps: Float[Tensor, "P C h w"], flow: Float[Tensor, "P 2 _ _"]
) -> Float[Tensor, "P C h w"]:
    """Sample maps bilinearly at ``p + flow(p)``; border cells are repeated outside.

    Args:
        maps: Maps of support frames.
        flow: ``(x, y)`` from the reference frames to the support frames, relative to width and
            height, on a grid of any size.
    """
    height, width = maps.shape[-2:]
    flow = F.interpolate(flow.float(), size=(height, width), mode="bilinear", align_corners=False)
    (x, y), (dx, dy) = _cells(maps).unbind(dim=1), flow.unbind(dim=1)
    # With align_corners=True the centres of the border cells are at -1 and 1.
    grid_x = 2 * (x + dx * width) / max(width - 1, 1) - 1
    grid_y = 2 * (y + dy * height) / max(height - 1, 1) - 1
    grid = torch.stack((grid_x, grid_y), dim=3)
    return F.grid_sample(maps.float(), grid, padding_mode="border", align_corners=True)


def _cells(maps: Float[Tensor, "P C h w"]) -> Float[Tensor, "P 2 h w"]:
    """Return the position ``(x, y)`` of each cell of maps, in cells."""
    height, width = maps.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=maps.device, dtype=torch.float32),
        torch.arange(width, device=maps.device, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack((x, y)).expand(len(maps), -1, -1, -1)


def _embedding(channels: int, width: int) -> nn.Sequential:
    """Return the three convolutions of the paper, all with ``width`` channels."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=1),
        nn.ReLU(),
        nn.Conv2d(width, width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, kernel_size=1),
    )


def _flow_network(pretrained: bool, checkpoint_path: str | Path | None) -> Any:
    flow = raft_small(weights=None)
    if checkpoint_path is None and not pretrained:
        nn.init.zeros_(flow.update_block.flow_head.conv2.weight)
        nn.init.zeros_(flow.update_block.flow_head.conv2.bias)
        return flow
    try:
        if checkpoint_path is None:
            weights = Raft_Small_Weights.DEFAULT.get_state_dict(check_hash=True)
        else:
            weights = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
        flow.load_state_dict(weights)
    except Exception as error:  # any fault of the file or the connection
        source = checkpoint_path or "the cache or the hub of torchvision"
        reason = f"{type(error).__name__}: {str(error).splitlines()[:1]}"
        msg = f"Cannot load weights of raft_small from {source}: {reason}"
        raise CheckpointError(msg) from error
    return flow
