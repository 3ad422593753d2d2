"""ConvGRU: a recurrent memory of feature maps, without lookahead, with constant cost per frame.

Source: N. Ballas et al., "Delving Deeper into Convolutional Networks for Learning Video
Representations" (arXiv 1511.06432), equations 8 to 11. It serves as the memory of a detector, as in
M. Liu, M. Zhu, "Mobile Video Object Detection with Temporally-Aware Feature Maps" (arXiv
1711.06368). Two additions are ours: a zero-initialised layer adds the memory to the maps, and the
initial bias of the update gate favours the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vodet.encodings import EncodedFrames, FeatureMaps, FeatureSpec, State, WindowBatch
from vodet.errors import ConfigError
from vodet.stages import MapFusion

_INITIAL_UPDATE = -2.0  # bias of the update gate: initially 88 % of the memory is kept per frame


class ConvGRUCell(nn.Module):
    """The ConvGRU cell of one level: updates the memory, then adds the memory to the map.

    With map x and memory h: ``z, r = sigmoid(conv([x; h]))``, ``n = tanh(conv([x; r h]))``, and the
    new memory is ``h' = (1 - z) h + z n``. The output is ``x + conv1x1(h')``. The last convolution
    is zero-initialised, so training starts with a detector that ignores the memory.

    Args:
        channels: Channels of the map.
        hidden: Channels of the memory.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(channels + hidden, 2 * hidden, kernel_size=3, padding=1)
        self.candidate = nn.Conv2d(channels + hidden, hidden, kernel_size=3, padding=1)
        self.out = nn.Conv2d(hidden, channels, kernel_size=1)
        with torch.no_grad():
            cast("Tensor", self.gates.bias)[:hidden].fill_(_INITIAL_UPDATE)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(cast("Tensor", self.out.bias))

    def forward(
        self, x: Float[Tensor, "B C h w"], hidden: Float[Tensor, "B D h w"]
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B D h w"]]:
        """Return the map with the new memory added, and the new memory, which is float32."""
        update, reset = self.gates(torch.cat((x, hidden), dim=1)).sigmoid().chunk(2, dim=1)
        new = self.candidate(torch.cat((x, reset * hidden), dim=1)).tanh()
        hidden = torch.lerp(hidden, new.float(), update.float())
        return x + self.out(hidden), hidden


class ConvGRU(MapFusion):
    """Adds a recurrent memory of all earlier frames to the maps, with a ConvGRU cell per level.

    It uses only the reference frame of a window, so choose ``window=single``. The state of ``B``
    videos is a tensor ``hidden_LEVEL`` ``[B, D, h, w]`` for each level that has a memory. Train it
    with ``data.history.policy=previous``, ``data.history.windows=7`` and ``data.losses_on=all``.

    Args:
        spec: Levels of the maps.
        hidden: Channels of the memory of a level; by default half of the level's channels.
        strides: Strides of the levels that have a memory; None means all. The finest level is the
            most expensive.

    Raises:
        ConfigError: If a level of ``strides`` does not exist, or ``hidden`` is not positive.
    """

    remembers = True

    def __init__(
        self, spec: FeatureSpec, hidden: int | None = None, strides: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        chosen = set(spec.strides if strides is None else strides)
        if unknown := chosen - set(spec.strides):
            msg = (
                f"ConvGRU: strides must be strides of the feature maps, {spec.strides}; found "
                f"{sorted(unknown)}."
            )
            raise ConfigError(msg)
        if hidden is not None and hidden < 1:
            msg = f"ConvGRU: hidden must be at least 1, found {hidden}."
            raise ConfigError(msg)
        self.hidden = {
            level: hidden or max(1, spec.channels[level] // 2)
            for level, stride in enumerate(spec.strides)
            if stride in chosen
        }
        self.cells = nn.ModuleDict(
            {str(level): ConvGRUCell(spec.channels[level], n) for level, n in self.hidden.items()}
        )

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        """Return a state whose memories are all zero."""
        state = {}
        for level, channels in self.hidden.items():
            like = frames.maps.levels[level]
            shape = (videos, channels, *like.shape[-2:])
            state[f"hidden_{level}"] = torch.zeros(shape, device=like.device)
        return state

    def forward(self, windows: WindowBatch, state: State) -> tuple[FeatureMaps, State]:
        """Return the maps of the reference frames with the memory added, and the new memory."""
        levels = list(windows.reference_maps.levels)
        after = {}
        for level in self.hidden:
            name = f"hidden_{level}"
            levels[level], after[name] = self.cells[str(level)](levels[level], state[name])
        return FeatureMaps(tuple(levels)), after
