"""The detector: the only module that names all stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from vodet.encodings import Encodings, TemporalMemory, Windows
from vodet.errors import ConfigError
from vodet.freezing import find_modules, freeze
from vodet.fusion.none import NoFusion
from vodet.inference.postprocess import to_original
from vodet.stages import Backbone, FrameResize, HeadFactory, MapFusionFactory, PyramidFactory
from vodet.structures import ClipBatch, Detections, Window


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
        frozen: Names of parts that do not learn, such as ``("backbone", "pyramid", "head.rpn")``:
            they stay in evaluation mode, and where nothing that learns comes before them they run
            without gradient.

    Raises:
        ConfigError: If there is no class, a class name is there twice, or there is no part of a
            name in ``frozen``.
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
        frozen: Sequence[str] = (),
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
        self.frozen = tuple(frozen)
        # Convolutions are faster so, by a tenth on a CPU; what the maps look like to others stays.
        self.to(memory_format=torch.channels_last)
        self.train(self.training)

    def train(self, mode: bool = True) -> VideoDetector:
        """Set the training mode of all but the frozen parts."""
        super().train(mode)
        freeze(find_modules(self, self.frozen, "The detector"))
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode(
        self, frames: UInt8[Tensor, "F 3 H W"], sizes: Int[Tensor, "F 2"] | None = None
    ) -> Encodings:
        """Encode frames, each by itself.

        Args:
            frames: RGB, of any size; padded with black at the right and the bottom as the backbone
                needs it.
            sizes: ``(height, width)`` of the picture in the upper left corner of each frame; by
                default the picture is the whole frame.
        """
        if sizes is None:
            sizes = torch.tensor(frames.shape[-2:], device=frames.device).expand(len(frames), 2)
        divisor = self.backbone.size_divisor
        bottom, right = (-side % divisor for side in frames.shape[-2:])
        maps = self.pyramid(self.backbone(F.pad(frames, (0, right, 0, bottom))))
        return Encodings(maps, sizes, self.head.encode(maps))

    def step(
        self, windows: Windows, memories: Sequence[TemporalMemory]
    ) -> tuple[dict[str, Tensor], list[TemporalMemory]]:
        """Join the frames of windows into predictions for their reference frames.

        Args:
            windows: Windows of encoded frames, ``B`` of them.
            memories: What each window's video has left behind, ``[B]``.

        Returns:
            The head's raw predictions and the memories after these answers.
        """
        predictions, after = self.head(self._fused(windows), memories)
        return predictions, [memory.after_answer() for memory in after]

    def _fused(self, windows: Windows) -> Windows:
        if isinstance(self.fusion, NoFusion):  # it would only copy the maps
            return windows
        return replace(windows, fused=self.fusion(windows.maps, windows.reference))

    def _windows(self, batch: ClipBatch) -> Windows:
        """Encode all frames of a batch of clips."""
        device = batch.frames.device
        sizes = [info.size for infos in batch.infos for info in infos]
        encodings = self.encode(batch.frames.flatten(0, 1), torch.tensor(sizes, device=device))
        return Windows.of_clips(encodings, batch.frames.shape[1], batch.reference)

    def losses(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return the named loss terms of a batch of clips; their sum is the training loss."""
        windows = self._fused(self._windows(batch))
        memory_windows = batch.memory_windows if self.head.remembers else ()
        with torch.no_grad():
            memory = [(self._fused(self._windows(w)), w.known_targets) for w in memory_windows]
        return self.head.losses(windows, batch.known_targets, memory)

    def forward(self, batch: ClipBatch) -> list[Detections]:
        """Detect the objects of the reference frames of clips, in pixels of the original images.

        Each clip counts as the beginning of a video: nothing is in its memory.
        """
        predictions, _ = self.step(self._windows(batch), [TemporalMemory()] * len(batch.frames))
        return [
            to_original(found, info.size, info.original_size)
            for found, info in zip(
                self.head.decode(predictions), batch.reference_infos, strict=True
            )
        ]
