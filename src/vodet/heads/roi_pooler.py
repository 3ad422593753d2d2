"""RoI features from the level of a pyramid that fits the size of the RoI.

Source: T.-Y. Lin et al., "Feature Pyramid Networks for Object Detection" (arXiv 1612.03144),
equation 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vodet.boxes import box_areas
from vodet.encodings import FeatureMaps
from vodet.roi_align import roi_align

# A RoI of 224 x 224 pixels, the size of ImageNet's pictures, belongs to stride 16 = 2^4.
_CANONICAL_SIZE, _CANONICAL_LEVEL = 224, 4


class RoIPooler:
    """Pools each RoI from one level, aligned, with as many samples as the RoI has cells.

    Args:
        strides: Of the levels of the pyramid.
        resolution: Bins along each side.
        coarsest: Levels of a larger stride are not pooled from.
    """

    def __init__(self, strides: Sequence[int], resolution: int, coarsest: int = 32) -> None:
        self.strides = [stride for stride in strides if stride <= coarsest]
        self.resolution = resolution

    def level_of(self, boxes: Float[Tensor, "n 4"]) -> Int[Tensor, " n"]:
        """Return the position of the level of each box: ``floor(4 + log2(sqrt(area) / 224))``."""
        scale = box_areas(boxes).sqrt() / _CANONICAL_SIZE
        level = torch.floor(_CANONICAL_LEVEL + torch.log2(scale + 1e-8)).long()
        first = round(math.log2(self.strides[0]))
        return (level - first).clamp(0, len(self.strides) - 1)

    def __call__(
        self, maps: FeatureMaps, boxes: Float[Tensor, "n 4"], frames: Int[Tensor, " n"]
    ) -> Float[Tensor, "n C s s"]:
        """Pool from maps ``[F, C, h, w]``.

        Args:
            maps: Maps of some frames.
            boxes: In pixels.
            frames: To which frame each box belongs.
        """
        level_of_box = self.level_of(boxes)
        shape = (len(boxes), self.resolution, self.resolution, maps.levels[0].shape[1])
        # Channels last, as they come, so that they are copied in whole rows.
        pooled = boxes.new_zeros(shape).permute(0, 3, 1, 2)
        for level, stride in enumerate(self.strides):
            features, is_own = maps.levels[level].float(), level_of_box == level
            if boxes.device.type == "cpu":
                rows = is_own.nonzero()[:, 0]
                if len(rows):
                    pooled[rows] = roi_align(
                        features, boxes[rows], frames[rows], 1 / stride, self.resolution
                    )
                continue
            # To count the boxes of a level a GPU would have to be waited for: the others are
            # pooled as boxes without extent, which costs next to nothing.
            own_boxes = boxes * is_own.unsqueeze(1)
            found = roi_align(features, own_boxes, frames, 1 / stride, self.resolution)
            pooled = torch.where(is_own.view(-1, 1, 1, 1), found, pooled)
        return pooled

    def of_frames(
        self, maps: FeatureMaps, boxes: Float[Tensor, "F N 4"], rows: Int[Tensor, " F"]
    ) -> Float[Tensor, "F N C s s"]:
        """Pool the same number of boxes of each frame.

        Args:
            maps: Maps of some frames.
            boxes: In pixels.
            rows: The frame of each item.
        """
        count = boxes.shape[1]
        features = self(maps, boxes.flatten(0, 1), rows.repeat_interleave(count))
        return features.view(len(boxes), count, *features.shape[1:])
