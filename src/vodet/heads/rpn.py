"""Region proposal network: predicts the objectness and box of every anchor of single frames.

Source: S. Ren et al., "Faster R-CNN" (arXiv 1506.01497), section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.rpn import RPNHead

from vodet.encodings import FeatureMaps, FeatureSpec, Selection, WindowBatch
from vodet.errors import ConfigError
from vodet.heads.anchors import Anchors, decode_boxes, encode_boxes
from vodet.heads.linking import ProposalLimits, Proposals, link_anchors, top_anchors
from vodet.heads.matching import Assigner
from vodet.structures import Target

DELTA_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
ANCHORS = Anchors()


class RPN(nn.Module):
    """Region proposal network: predicts objectness and box deltas of every anchor.

    It consists of 3 x 3 convolutions with ReLU and two 1 x 1 convolutions, with weights shared
    across levels.

    Args:
        spec: Levels of the maps, all with the same number of channels.
        anchors: The anchors of every cell.
        batch_size_per_image: Maximum number of anchors per frame that are sampled for the losses;
            at most half of this number are positive.
        convs: Number of 3 x 3 convolutions, each with ReLU.

    Raises:
        ConfigError: If the levels differ in their number of channels.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        anchors: Anchors = ANCHORS,
        batch_size_per_image: int = 256,
        convs: int = 1,
    ) -> None:
        super().__init__()
        if len(set(spec.channels)) > 1:
            msg = (
                "A region proposal network needs levels with the same number of channels, found "
                f"channels={spec.channels}. Choose model/pyramid=fpn or model/pyramid=projection."
            )
            raise ConfigError(msg)
        self.strides = spec.strides
        self.shapes = anchors
        self.assigner = Assigner(
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=batch_size_per_image,
            positive_fraction=0.5,
            allow_low_quality_matches=True,
        )
        self.net = RPNHead(spec.channels[0], anchors.per_cell, conv_depth=convs)

    def anchors(self, maps: FeatureMaps) -> list[Float[Tensor, "A 4"]]:
        """Return the anchors at every cell of each level's map, xyxy in input pixels."""
        return self.shapes.of(maps, self.strides)

    def forward(self, maps: FeatureMaps) -> dict[str, Tensor]:
        """Return the predictions for all ``A`` anchors of each frame, in the order of `anchors`.

        ``anchor_logits`` ``[F, A]`` are objectness logits, ``anchor_deltas`` ``[F, A, 4]`` the box
        deltas, and ``anchor_boxes`` ``[F, A, 4]`` the boxes decoded from them, in input pixels and
        not clipped. All are float32.
        """
        logits, deltas = self.net(list(maps.levels))
        flat_logits = torch.cat([level.permute(0, 2, 3, 1).flatten(1) for level in logits], dim=1)
        flat_deltas = torch.cat(
            [
                level.unflatten(1, (self.shapes.per_cell, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
                for level in deltas
            ],
            dim=1,
        ).float()
        boxes = decode_boxes(flat_deltas.detach(), torch.cat(self.anchors(maps)), DELTA_WEIGHTS)
        return {
            "anchor_logits": flat_logits.float(),
            "anchor_deltas": flat_deltas,
            "anchor_boxes": boxes,
        }

    @torch.no_grad()
    def proposals(
        self, places: Sequence[Selection], reference: int, limits: ProposalLimits
    ) -> Proposals:
        """Return the proposals of windows; a proposal is the same anchor in all frames.

        Args:
            places: For each position of a window, the frames of all windows at this position, with
                the output of `forward` as extras.
            reference: Position of the reference frame in the windows.
            limits: Limits on the proposals.
        """
        own = places[reference]
        logits = own.extra("anchor_logits")
        maps = own.frames.maps.levels
        counts = [self.shapes.per_cell * level.shape[-2] * level.shape[-1] for level in maps]
        anchors, levels = top_anchors(logits, counts, limits.pre_nms_top_n)
        boxes = [
            place.frames.extras["anchor_boxes"][place.rows.unsqueeze(1), anchors]
            for place in places
        ]
        found, _ = link_anchors(
            torch.stack(boxes, dim=1),
            logits.gather(1, anchors),
            levels,
            own.sizes,
            reference,
            limits,
        )
        return found

    def window_losses(
        self, windows: WindowBatch, targets: Sequence[Sequence[Target | None]]
    ) -> dict[str, Tensor]:
        """Return the result of `losses` for all annotated frames of the windows.

        A frame that several windows contain counts once. If it is the reference frame of one of
        them, the predictions from its fused maps are used.
        """
        index, places = windows.index.tolist(), windows.places
        others = [place for place in range(len(places)) if place != windows.reference]
        seen: set[int] = set()
        logits, deltas, known = [], [], []
        for place in (windows.reference, *others):
            items = []
            for item, clip in enumerate(targets):
                target, frame = clip[place], index[item][place]
                if target is not None and frame not in seen:
                    seen.add(frame)
                    items.append(item)
                    known.append(target)
            frames, rows = places[place].frames, places[place].rows[items]
            logits.append(frames.extras["anchor_logits"][rows])
            deltas.append(frames.extras["anchor_deltas"][rows])
        anchors = torch.cat(self.anchors(windows.frames.maps))
        return self.losses(torch.cat(logits), torch.cat(deltas), anchors, known)

    def losses(
        self,
        logits: Float[Tensor, "F A"],
        deltas: Float[Tensor, "F A 4"],
        anchors: Float[Tensor, "A 4"],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Sample anchors and return ``rpn_class`` (binary cross-entropy) and ``rpn_box`` (L1).

        Both are sums over the samples of all frames, divided by ``batch_size_per_image`` times the
        number of frames, even if fewer anchors were sampled.

        Args:
            logits: Objectness logits of all anchors of each frame.
            deltas: Box deltas of all anchors of each frame.
            anchors: The anchors, xyxy in input pixels.
            targets: Objects of each frame.
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
        nominal = self.assigner.batch_size_per_image * max(len(targets), 1)
        return {"rpn_class": class_loss / nominal, "rpn_box": box_loss / nominal}
