"""Region proposal network: objectness and box of every anchor, each frame by itself.

Source: S. Ren et al., "Faster R-CNN" (arXiv 1506.01497), section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.rpn import RPNHead

from vodet.encodings import FeatureMaps, FeatureSpec, Windows
from vodet.errors import ConfigError
from vodet.heads.anchors import anchors_of, decode_boxes, encode_boxes
from vodet.heads.linking import ProposalLimits, Tubelets, link_anchors
from vodet.heads.matching import Assigner
from vodet.structures import Target

DELTA_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


class RPN(nn.Module):
    """3 x 3 convolution, ReLU and two 1 x 1 convolutions on every level, with the same weights.

    Args:
        spec: The levels, all of one width.
        anchor_scale: Square root of the area of an anchor, in strides of its level.
        ratios: Heights of the anchors divided by their widths.
        samples: Anchors of a frame that are trained on, at most half of them objects.

    Raises:
        ConfigError: If the levels differ in width.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        anchor_scale: float = 8.0,
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        samples: int = 256,
    ) -> None:
        super().__init__()
        if len(set(spec.channels)) > 1:
            msg = (
                "A region proposal network needs levels of one width, found channels="
                f"{spec.channels}. Choose model/pyramid=fpn or model/pyramid=projection."
            )
            raise ConfigError(msg)
        self.strides = spec.strides
        self.anchor_scale = anchor_scale
        self.ratios = tuple(ratios)
        self.assigner = Assigner(
            positive_iou=0.7,
            negative_iou=0.3,
            samples=samples,
            positive_share=0.5,
            low_quality=True,
        )
        self.net = RPNHead(spec.channels[0], len(self.ratios))

    def anchors(self, maps: FeatureMaps) -> list[Float[Tensor, "A 4"]]:
        """Return the anchors of each level for maps of these shapes."""
        return anchors_of(maps, self.strides, self.anchor_scale, self.ratios)

    def forward(self, maps: FeatureMaps) -> dict[str, Tensor]:
        """Return ``logits`` ``[F, A]``, ``deltas`` and decoded ``boxes`` ``[F, A, 4]``, float32.

        Anchors are in the order of `anchors`, level after level; boxes are not clipped.
        """
        logits, deltas = self.net(list(maps.levels))
        flat_logits = torch.cat([level.permute(0, 2, 3, 1).flatten(1) for level in logits], dim=1)
        flat_deltas = torch.cat(
            [
                level.unflatten(1, (len(self.ratios), 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
                for level in deltas
            ],
            dim=1,
        ).float()
        boxes = decode_boxes(flat_deltas.detach(), torch.cat(self.anchors(maps)), DELTA_WEIGHTS)
        return {"logits": flat_logits.float(), "deltas": flat_deltas, "boxes": boxes}

    def of_windows(self, windows: Windows) -> tuple[dict[str, Tensor], Int[Tensor, "B T"]]:
        """Return outputs for the frames of windows, and which row is at each place of each.

        Where a map fusion has made other maps of the reference frames, these are looked at again.
        """
        outputs, index = windows.frames.extras, windows.index
        if windows.fused is None:
            return outputs, index
        again = self(windows.fused)
        index = index.clone()
        index[:, windows.reference] = torch.arange(len(index), device=index.device) + len(
            windows.frames
        )
        return {name: torch.cat((outputs[name], again[name])) for name in again}, index

    @torch.no_grad()
    def proposals(self, windows: Windows, limits: ProposalLimits) -> list[Tubelets]:
        """Return the linked proposals of each window, best first."""
        outputs, index = self.of_windows(windows)
        maps = windows.frames.maps.levels
        counts = [len(self.ratios) * level.shape[-2] * level.shape[-1] for level in maps]
        tubelets = []
        for frames, size in zip(index, windows.sizes, strict=True):
            logits = outputs["logits"][frames[windows.reference]]
            kept, boxes = link_anchors(
                outputs["boxes"][frames], logits, counts, size, windows.reference, limits
            )
            tubelets.append(Tubelets(boxes, logits[kept]))
        return tubelets

    def window_losses(
        self, windows: Windows, targets: Sequence[Sequence[Target | None]]
    ) -> dict[str, Tensor]:
        """Return `losses` of all frames of the windows whose objects are known."""
        outputs, index = self.of_windows(windows)
        known = torch.tensor([[target is not None for target in clip] for clip in targets])
        frames = index[known.to(index.device)]
        return self.losses(
            outputs["logits"][frames],
            outputs["deltas"][frames],
            torch.cat(self.anchors(windows.frames.maps)),
            [target for clip in targets for target in clip if target is not None],
        )

    def losses(
        self,
        logits: Float[Tensor, "F A"],
        deltas: Float[Tensor, "F A 4"],
        anchors: Float[Tensor, "A 4"],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Return ``rpn_class`` (cross-entropy) and ``rpn_box`` (L1), per sample.

        Both are sums, divided by the nominal number of samples, that is, as if as many as shall be
        drawn had been there in every frame.
        """
        class_loss, box_loss = logits.sum() * 0, deltas.sum() * 0
        for frame_logits, frame_deltas, target in zip(logits, deltas, targets, strict=True):
            matched = self.assigner.assign(anchors, target)
            positive, negative = self.assigner.draw(matched)
            drawn = positive | negative
            class_loss = class_loss + F.binary_cross_entropy_with_logits(
                frame_logits[drawn], positive[drawn].to(frame_logits), reduction="sum"
            )
            objects = target["boxes"][matched[positive]]
            wanted = encode_boxes(objects, anchors[positive], DELTA_WEIGHTS)
            box_loss = box_loss + (frame_deltas[positive] - wanted).abs().sum()
        nominal = self.assigner.samples * max(len(targets), 1)
        return {"rpn_class": class_loss / nominal, "rpn_box": box_loss / nominal}
