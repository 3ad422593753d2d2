"""Flow-guided feature aggregation: maps of support frames, brought along by optical flow.

Source: X. Zhu et al., "Flow-Guided Feature Aggregation for Video Object Detection" (arXiv
1703.10025). The flow is that of Z. Teed, J. Deng, "RAFT: Recurrent All-Pairs Field Transforms for
Optical Flow" (arXiv 2003.12039), in torchvision's small version, where the paper has FlowNet.
Maps and their embeddings are warped together, in training too, and the reference frame is always
part of the sum: these are ours.
"""

from __future__ import annotations

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
from vodet.stages import MapFusion

_STRIDE, _SMALLEST = 8, 128  # RAFT works at an eighth of pictures of at least 128 pixels
_CORRELATION_LEVELS, _CORRELATION_RADIUS = 4, 3  # of torchvision's raft_small


class FGFA(MapFusion):
    """Averages maps that were warped to the reference frame, weighted by their likeness to it.

    ``w_j = softmax_j(cos(E(f_j), E(f_i)) / temperature)`` in each cell, with the embedding E of a
    map warped like the map; the result is ``sum_j w_j f_j`` over all frames of the window.

    What depends on one frame alone, the embeddings and RAFT's features of a small picture, is
    computed once for each frame; the flow of all pairs of a step in one call.

    Args:
        spec: Levels of the maps.
        embedding_width: Channels of the embeddings.
        temperature: Divides the cosines, which lie in -1 to 1: lower is more selective.
        picture_scale: Size of the pictures that the flow is computed on, as a share of the frames;
            their sides are at least 128 pixels.
        flow_updates: Iterations of RAFT.
        pretrained: Load torchvision's weights of the flow network, from its cache or hub. Without,
            it begins with no motion and learns with the detector.
        checkpoint_path: Load this file of weights of ``raft_small`` instead; nothing in it is
            executed.

    Raises:
        CheckpointError: If the weights cannot be loaded.
    """

    needs_pixels = True

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
        self.flow = _flow_network(pretrained, checkpoint_path)
        self.embeddings = nn.ModuleList(
            _embedding(channels, embedding_width) for channels in spec.channels
        )

    def encode(self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps) -> dict[str, Tensor]:
        """Return embeddings of the maps, and what RAFT sees in each picture.

        ``embedding_LEVEL`` ``[F, D, h, w]``, ``flow_features`` and ``flow_context``
        ``[F, C, h / 8, w / 8]`` of the small picture.
        """
        if pixels is None:
            msg = "FGFA sees the frames themselves: it cannot come after another map fusion."
            raise ValueError(msg)
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
        maps = windows.maps.levels
        if not support:
            return FeatureMaps(tuple(level[:, 0] for level in maps)), state
        flow = self._flow(windows, support)
        fused = []
        for number, level in enumerate(maps):
            embedding = windows.extra(f"embedding_{number}").to(level.dtype)
            fused.append(self._aggregated(level, embedding, flow, windows.reference, support))
        return FeatureMaps(tuple(fused)), state

    def _flow(self, windows: WindowBatch, support: list[int]) -> Float[Tensor, "P 2 h w"]:
        """Return the flow from reference frames to support frames, as shares of the picture."""
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
            places = places.detach()  # as in the paper: each update learns by itself
            found = correlation.index_pyramid(centroids_coords=places)
            hidden, change = self.flow.update_block(hidden, context, found, places - start)
            places = places + change
        height, width = first.shape[-2:]
        flow: Tensor = (places - start) / first.new_tensor([width, height]).view(1, 2, 1, 1)
        return flow

    def _aggregated(
        self,
        level: Float[Tensor, "B T C h w"],
        embedding: Float[Tensor, "B T D h w"],
        flow: Float[Tensor, "P 2 _ _"],
        reference: int,
        support: list[int],
    ) -> Float[Tensor, "B C h w"]:
        both = torch.cat((level, embedding), dim=2)
        warped = warp(both[:, support].flatten(0, 1), flow)
        own = both[:, [reference]].to(warped.dtype)
        frames = torch.cat((own, warped.view(len(both), len(support), *both.shape[2:])), dim=1)
        channels = level.shape[2]
        values, keys = frames[:, :, :channels], frames[:, :, channels:]
        likeness = F.cosine_similarity(keys.float(), keys[:, :1].float(), dim=2, eps=1e-6)
        weights = (likeness / self.temperature).softmax(dim=1).unsqueeze(2)
        return (weights.to(values.dtype) * values).sum(dim=1)


def warp(
    maps: Float[Tensor, "P C h w"], flow: Float[Tensor, "P 2 _ _"]
) -> Float[Tensor, "P C h w"]:
    """Sample maps at ``p + flow(p)``, bilinear; beyond the border its cells are repeated.

    Args:
        maps: Maps of support frames.
        flow: ``(x, y)`` to them from the reference frames, as shares of width and height, on any
            grid.
    """
    height, width = maps.shape[-2:]
    flow = F.interpolate(flow.float(), size=(height, width), mode="bilinear", align_corners=False)
    sides = flow.new_tensor([width, height]).view(1, 2, 1, 1)
    places = _cells(maps) + flow * sides
    # grid_sample takes the centres of the border cells as -1 and 1 with align_corners=True.
    grid = (2 * places / (sides - 1).clamp(min=1) - 1).permute(0, 2, 3, 1)
    return F.grid_sample(maps.float(), grid, padding_mode="border", align_corners=True)


def _cells(maps: Float[Tensor, "P C h w"]) -> Float[Tensor, "P 2 h w"]:
    """Return the place ``(x, y)`` of each cell of maps, in cells."""
    height, width = maps.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=maps.device, dtype=torch.float32),
        torch.arange(width, device=maps.device, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack((x, y)).expand(len(maps), -1, -1, -1)


def _embedding(channels: int, width: int) -> nn.Sequential:
    """Return the three convolutions of the paper, of one width."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=1),
        nn.ReLU(),
        nn.Conv2d(width, width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, kernel_size=1),
    )


def _flow_network(pretrained: bool, checkpoint_path: str | Path | None) -> Any:
    if checkpoint_path is not None:
        flow = raft_small(weights=None)
        try:
            weights = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
            flow.load_state_dict(weights)
        except Exception as error:  # whatever is wrong with the file
            msg = (
                f"Cannot load weights of raft_small from {checkpoint_path}: "
                f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            )
            raise CheckpointError(msg) from error
        return flow
    if pretrained:
        return raft_small(weights=Raft_Small_Weights.DEFAULT)
    flow = raft_small(weights=None)
    nn.init.zeros_(flow.update_block.flow_head.conv2.weight)
    nn.init.zeros_(flow.update_block.flow_head.conv2.bias)
    return flow
