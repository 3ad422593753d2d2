"""The spatio-temporal head: RoI fusions and a classifier.

Source: D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided
attention for video object detection", Image and Vision Computing, 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vodet.encodings import KeyFrame, RoIs, RoISpec, TemporalMemory
from vodet.errors import ConfigError
from vodet.heads.box_head import RoIEncoder
from vodet.stages import LongTermFusion, RoIFusion, RoIFusionFactories


class SpatioTemporalHead(nn.Module):
    """Classifies RoIs by what their fusions make of the window and the memory.

    Features that are still on a grid pass through two fully connected layers before the classifier.

    Args:
        spec: Features of a RoI.
        num_classes: Number of classes, without background.
        roi_fusion: RoI fusions by name, applied in order.
        width: Of the fully connected layers.

    Raises:
        ConfigError: If several RoI fusions look at key frames.
    """

    def __init__(
        self, spec: RoISpec, num_classes: int, roi_fusion: RoIFusionFactories, width: int
    ) -> None:
        super().__init__()
        self.fusions = nn.ModuleDict()
        for name, factory in roi_fusion.items():
            fusion = factory(spec)
            self.fusions[name] = cast("nn.Module", fusion)
            spec = fusion.spec
        if sum(isinstance(fusion, LongTermFusion) for fusion in self.fusions.values()) > 1:
            msg = f"At most one RoI fusion may look at key frames, found {list(self.fusions)}."
            raise ConfigError(msg)
        is_encoded = spec.resolution == 1
        self.encoder = nn.Identity() if is_encoded else RoIEncoder(spec.width, width)
        self.classifier = nn.Linear(spec.width if is_encoded else width, num_classes + 1)

    def _in_order(self) -> list[RoIFusion]:
        return cast("list[RoIFusion]", list(self.fusions.values()))

    @property
    def joins_frames(self) -> bool:
        """Whether a fusion looks at the features of support frames."""
        return any(fusion.joins_frames for fusion in self._in_order())

    @property
    def long_term(self) -> LongTermFusion | None:
        """The fusion that looks at key frames."""
        return next((f for f in self._in_order() if isinstance(f, LongTermFusion)), None)

    def forward(
        self, rois: RoIs, memories: Sequence[TemporalMemory]
    ) -> tuple[Float[Tensor, "B N K1"], list[TemporalMemory]]:
        """Return class logits, background last, and the memories after the fusions."""
        after = list(memories)
        for fusion in self._in_order():
            rois, after = fusion(rois, after)
        logits: Tensor = self.classifier(self.encoder(rois.features[0].flatten(2)))
        return logits.float(), after

    def key_frames(self, rois: RoIs) -> list[KeyFrame]:
        """Return what long-term attention remembers of windows; only its own layers learn from it.

        Raises:
            ValueError: If there is no such fusion.
        """
        for fusion in self._in_order():
            if isinstance(fusion, LongTermFusion):
                return fusion.key_frames(rois)
            with torch.no_grad():
                rois, _ = fusion(rois, [TemporalMemory()] * len(rois.boxes))
        msg = "No RoI fusion looks at key frames."
        raise ValueError(msg)
