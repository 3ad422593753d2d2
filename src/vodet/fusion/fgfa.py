"""Flow-guided feature aggregation: averages maps of support frames, warped by optical flow.

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

_STRIDE, _SMALLEST = 8, 128  # stride of RAFT's features; minimum side of its pictures in pixels
_CORRELATION_LEVELS, _CORRELATION_RADIUS = 4, 3  # as in torchvision's raft_small


class FGFA(MapFusion):
    """Warps the maps of support frames to the reference frame i, and averages all frames' maps.

    Maps that are more similar to the map of the reference frame get a larger weight. In each cell,
    the result is ``sum_j w_j f_j`` over all frames j of the window, with
    ``w_j = softmax_j(cos(E(f_j), E(f_i)) / temperature)``. The embedding E of a support frame's map
    is warped together with the map.

    The flow network also sees the black padding of a frame, which may depend on the other clips of
    the batch.

    The embeddings and RAFT's features of the downscaled picture are computed once per frame; the
    optical flow of all pairs of frames in a step is computed in one call.

    Args:
        spec: Levels of the maps.
        embedding_width: Channels of the embeddings.
        temperature: Number by which the cosines, from -1 to 1, are divided. A lower temperature
            gives similar maps more weight.
        picture_scale: Size of the pictures that the flow network gets, relative to the frames.
            Their sides are at least 128 pixels.
        flow_updates: Number of iterations of RAFT.
        pretrained: Whether to load torchvision's weights of the flow network, from its cache or the
            hub. If False, the network initially predicts zero flow and is trained with the
            detector.
        checkpoint_path: File from which to load the weights of ``raft_small`` instead; no code in
            it is executed.

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
        """Return embeddings of each frame's maps, and RAFT's features of its downscaled picture.

        The embeddings ``embedding_LEVEL`` ``[F, D, h, w]`` have the height and width of the level's
        map. RAFT's features, ``flow_features`` and ``flow_context``, have 1/8 of the height and
        width of the downscaled picture.
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
        """Return the fused maps of the reference frames, and the unchanged state."""
        support = [p for p in range(windows.index.shape[1]) if p != windows.reference]
        if not support:
            return windows.reference_maps, state
        flow = self._flow(windows, support)
        flows = flow.view(len(windows), len(support), *flow.shape[1:]).unbind(dim=1)
        levels = range(len(self.embeddings))
        fused = [self._aggregated(windows, level, support, flows) for level in levels]
        return FeatureMaps(tuple(fused)), state

    def _flow(self, windows: WindowBatch, support: list[int]) -> Float[Tensor, "P 2 h w"]:
        """Return the optical flow from the reference frames to the support frames.

        It is ``(x, y)`` as a share of the picture's width and height, for each window and each
        support frame.
        """
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
        """Return the weighted average of one level's maps over the frames of each window.

        The frames are processed one after the other to limit memory use.

        Args:
            windows: The windows.
            number: Number of the level.
            support: Positions of the support frames in the windows.
            flows: Optical flow from the reference frames to the frames at each of these positions.
        """
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
        """Return the weight of each cell before normalisation: ``exp((cos - 1) / temperature)``."""
        cosine = F.cosine_similarity(key.float(), own.float(), dim=1, eps=1e-6)
        return ((cosine - 1) / self.temperature).exp().unsqueeze(1)


def warp(
    maps: Float[Tensor, "P C h w"], flow: Float[Tensor, "P 2 _ _"]
) -> Float[Tensor, "P C h w"]:
    """Warp maps of support frames to the reference frames: sample them at ``p + flow(p)``.

    Sampling is bilinear. Outside a map, it takes the value of the nearest border cell.

    Args:
        maps: Maps of support frames.
        flow: Optical flow ``(x, y)`` from the reference frames to the support frames, as a share of
            width and height, on a grid of any size.
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
    """Return ``(column, row)`` of each cell of maps, counted from 0."""
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
        source = checkpoint_path or "torchvision's cache or its download server"
        reason = str(error).partition("\n")[0]
        msg = f"Cannot load weights of raft_small from {source}: {type(error).__name__}: {reason}"
        raise CheckpointError(msg) from error
    return flow
