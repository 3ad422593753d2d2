"""The detector: the only module that names all stages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from vodet.errors import ConfigError
from vodet.inference.postprocess import to_original
from vodet.structures import (
    Backbone,
    ClipBatch,
    Detections,
    FeatureMaps,
    FrameResize,
    HeadFactory,
    MapFusionFactory,
    PyramidFactory,
    TemporalMemory,
    Window,
)


class VideoDetector(nn.Module):
    """A video object detector, in two parts: what sees one frame and what joins frames.

    `encode` is everything that depends on one frame alone; `step` is everything that joins frames.
    Neither keeps anything of a video: training, evaluation and streaming call the same two methods
    and get the same detections, however the video is fed.

    Args:
        backbone: Frames to feature maps.
        pyramid: Builds the per-frame stage behind the backbone from the backbone's levels.
        fusion: Builds the map fusion from the pyramid's levels.
        head: Builds the head from the pyramid's levels and the number of classes.
        window: The frames that are joined.
        class_names: Names of the labels.
        resize: How frames are brought to the size at which they are evaluated.

    Raises:
        ConfigError: If there is no class, or a class name is there twice.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        pyramid: PyramidFactory,
        fusion: MapFusionFactory,
        head: HeadFactory,
        window: Window,
        class_names: Sequence[str],
        resize: FrameResize,
    ) -> None:
        super().__init__()
        if not class_names or len(set(class_names)) != len(class_names):
            msg = f"A detector needs distinct class names, found {list(class_names)}."
            raise ConfigError(msg)
        self.window = window
        self.class_names = tuple(class_names)
        self.resize = resize
        self.backbone = backbone
        self.pyramid = pyramid(backbone.spec)
        self.fusion = fusion(self.pyramid.spec)
        self.head = head(self.pyramid.spec, len(self.class_names))
        # Convolutions are faster so, by a tenth on a CPU; what the maps look like to others stays.
        self.to(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode(self, frames: UInt8[Tensor, "N 3 H W"]) -> FeatureMaps:
        """Turn frames into feature maps, each frame by itself.

        Args:
            frames: RGB, of any size; padded with black at the right and the bottom as the backbone
                needs it.
        """
        divisor = self.backbone.size_divisor
        bottom, right = (-side % divisor for side in frames.shape[-2:])
        return self.pyramid(self.backbone(F.pad(frames, (0, right, 0, bottom))))

    def step(
        self, window: FeatureMaps, memories: Sequence[TemporalMemory], reference: int | None = None
    ) -> tuple[dict[str, Tensor], list[TemporalMemory]]:
        """Join the frames of windows into predictions for their reference frames.

        Args:
            window: Encodings ``[B, T, C, h, w]``.
            memories: What each window's video has left behind, ``[B]``.
            reference: Position of the reference frame; by default that of the detector's window.

        Returns:
            The head's raw predictions and the memories after these answers.
        """
        fused = self.fusion(window, self.window.reference if reference is None else reference)
        return self.head(fused), [memory.after_answer() for memory in memories]

    def _predict_clips(self, batch: ClipBatch) -> dict[str, Tensor]:
        clips, length = batch.frames.shape[:2]
        encodings = self.encode(batch.frames.flatten(0, 1))
        window = encodings.map(lambda level: level.view(clips, length, *level.shape[1:]))
        return self.step(window, [TemporalMemory()] * clips, batch.reference)[0]

    def losses(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return the named loss terms of a batch of clips; their sum is the training loss."""
        return self.head.losses(self._predict_clips(batch), batch.reference_targets)

    def forward(self, batch: ClipBatch) -> list[Detections]:
        """Detect the objects of the reference frames of clips, in pixels of the original images."""
        detections = self.head.decode(self._predict_clips(batch))
        return [
            to_original(found, info.size, info.original_size)
            for found, info in zip(detections, batch.reference_infos, strict=True)
        ]
