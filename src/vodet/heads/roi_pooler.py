"""Pools RoI features from the pyramid level that fits the size of the RoI.

Source: T.-Y. Lin et al., "Feature Pyramid Networks for Object Detection" (arXiv 1612.03144),
equation 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import roi_align as torchvision_roi_align

from vodet.boxes import box_areas
from vodet.encodings import FeatureMaps
from vodet.errors import ConfigError
from vodet.roi_align import roi_align

# A RoI of 224 x 224 pixels, the ImageNet picture size, is assigned to stride 16 = 2^4.
_CANONICAL_SIZE, _CANONICAL_LEVEL = 224, 4


# Arguments: maps, boxes in pixels, index of each box's frame, 1 / stride, bins along each side.
RoIAlign = Callable[[Tensor, Tensor, Tensor, float, int], Tensor]


@dataclass(frozen=True)
class AdaptiveRoIAlign:
    """RoIAlign with about one sample per cell of the map in each RoI; see `vodet.roi_align`."""

    def __call__(
        self, maps: Tensor, boxes: Tensor, frames: Tensor, scale: float, size: int
    ) -> Tensor:
        """Return the features of the boxes, ``[n, C, size, size]``."""
        return roi_align(maps, boxes, frames, scale, size)


@dataclass(frozen=True)
class SampledRoIAlign:
    """RoIAlign with a fixed number of samples per bin and without the half-pixel correction.

    torchvision's detectors are trained with it. On a CPU it is slower than `AdaptiveRoIAlign`.

    Args:
        samples: Number of samples along each side of a bin.
    """

    samples: int = 2

    def __call__(
        self, maps: Tensor, boxes: Tensor, frames: Tensor, scale: float, size: int
    ) -> Tensor:
        """Return the features of the boxes, ``[n, C, size, size]``."""
        rois = torch.cat((frames.to(boxes.dtype).unsqueeze(1), boxes), dim=1)
        pooled: Tensor = torchvision_roi_align(maps, rois, size, scale, self.samples, False)
        return pooled


ROI_ALIGN = AdaptiveRoIAlign()


class RoIPooler:
    """Pools each RoI with RoIAlign from the pyramid level that fits its size.

    Args:
        strides: Strides of the pyramid levels, finest first. Of levels with the same stride, only
            the first is used.
        resolution: Number of bins along each side of a RoI.
        coarsest: Levels with a larger stride are not used.
        align: Function that pools RoIs from the maps of one level.

    Raises:
        ConfigError: If there are no levels to use, or their strides do not double from level to
            level.

    Attributes:
        strides: Strides of the levels from which RoIs are pooled.
        levels: Indices of these levels in the pyramid.
    """

    def __init__(
        self,
        strides: Sequence[int],
        resolution: int,
        coarsest: int = 32,
        align: RoIAlign = ROI_ALIGN,
    ) -> None:
        self.align = align
        self.strides = sorted({stride for stride in strides if stride <= coarsest})
        self.levels = [list(strides).index(stride) for stride in self.strides]
        if not self.strides or any(coarse != 2 * fine for fine, coarse in pairwise(self.strides)):
            msg = (
                f"RoI pooling needs levels of strides up to {coarsest} whose strides double from "
                f"level to level, found {list(strides)}. Choose other levels of the backbone, such "
                "as model.backbone.strides=[4,8,16,32]."
            )
            raise ConfigError(msg)
        self.resolution = resolution

    def level_of(self, boxes: Float[Tensor, "n 4"]) -> Int[Tensor, " n"]:
        """Return the index in ``strides`` of the level from which each box is pooled.

        The stride of the level is ``2^floor(4 + log2(sqrt(area) / 224))``, clamped to the existing
        strides.
        """
        scale = box_areas(boxes).sqrt() / _CANONICAL_SIZE
        level = torch.floor(_CANONICAL_LEVEL + torch.log2(scale + 1e-8)).long()
        first = round(math.log2(self.strides[0]))
        return (level - first).clamp(0, len(self.strides) - 1)

    def __call__(
        self, maps: FeatureMaps, boxes: Float[Tensor, "n 4"], frames: Int[Tensor, " n"]
    ) -> Float[Tensor, "n C s s"]:
        """Pool RoIs from maps ``[F, C, h, w]``.

        Args:
            maps: Maps of the frames.
            boxes: Boxes of the RoIs, xyxy in input pixels.
            frames: For each box, the index in ``maps`` of its frame.
        """
        level_of_box = self.level_of(boxes)
        shape = (len(boxes), self.resolution, self.resolution, maps.levels[0].shape[1])
        # Channels last, like the output of roi_align, so that whole rows are copied.
        pooled = boxes.new_empty(shape).permute(0, 3, 1, 2)
        for place, (stride, level) in enumerate(zip(self.strides, self.levels, strict=True)):
            features, is_own = maps.levels[level].float(), level_of_box == place
            if boxes.device.type == "cpu" and not torch.compiler.is_exporting():
                rows = is_own.nonzero()[:, 0]
                if len(rows):
                    pooled[rows] = self.align(
                        features, boxes[rows], frames[rows], 1 / stride, self.resolution
                    )
                continue
            # Counting the boxes of a level would synchronise with the GPU, so boxes of other
            # levels are pooled as empty boxes, which costs almost nothing.
            own_boxes = boxes * is_own.unsqueeze(1)
            found = self.align(features, own_boxes, frames, 1 / stride, self.resolution)
            pooled = torch.where(is_own.view(-1, 1, 1, 1), found, pooled)
        return pooled

    def of_frames(
        self, maps: FeatureMaps, boxes: Float[Tensor, "F N 4"], rows: Int[Tensor, " F"]
    ) -> Float[Tensor, "F N C s s"]:
        """Pool the same number of boxes from each frame.

        Args:
            maps: Maps of at least these frames.
            boxes: ``N`` boxes of each of ``F`` frames, xyxy in input pixels.
            rows: Index in ``maps`` of each of the ``F`` frames.
        """
        count = boxes.shape[1]
        features = self(maps, boxes.flatten(0, 1), rows.repeat_interleave(count))
        return features.view(len(boxes), count, *features.shape[1:])
