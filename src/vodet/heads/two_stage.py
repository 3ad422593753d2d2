"""The two-stage head: proposals, linked through the window, classified by two heads.

Sources: S. Ren et al., "Faster R-CNN" (arXiv 1506.01497), which it is with a window of one frame;
D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided attention
for video object detection", Image and Vision Computing, 2021 (SLTnet).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from vodet.boxes import clip_boxes
from vodet.encodings import (
    FeatureMaps,
    FeatureSpec,
    KeyFrame,
    RoIs,
    RoISpec,
    TemporalMemory,
    Windows,
)
from vodet.errors import ConfigError, DataError
from vodet.heads.box_head import (
    BoxHead,
    class_boxes,
    class_loss,
    detections_of,
    joined_scores,
)
from vodet.heads.key_frames import follow_tracks
from vodet.heads.linking import ProposalLimits, Tubelets
from vodet.heads.matching import Assigner
from vodet.heads.proposals import (
    Sample,
    draw_sample,
    key_proposals,
    padded,
)
from vodet.heads.roi_pooler import RoIPooler
from vodet.heads.rpn import RPN
from vodet.heads.spatio_temporal import SpatioTemporalHead
from vodet.stages import LongTermFusion, RoIFusionFactories
from vodet.structures import Detections, Target

SCORES = ("both", "spatial", "spatio_temporal")
TRAIN_LIMITS = ProposalLimits(per_level=2000, total=1000)
TEST_LIMITS = ProposalLimits(per_level=1000, total=1000)
Targets = Sequence[Sequence[Target | None]]  # [B][T]


class TwoStageHead(nn.Module):
    """Region proposals, RoI features, RoI fusions and a double head.

    The spatial head is the box head of Faster R-CNN on the reference frame. Behind the RoI fusions
    a spatio-temporal head classifies; boxes are always those of the spatial head. Without RoI
    fusion there is the spatial head alone.

    Args:
        spec: Levels of the maps, all of one width, as an FPN makes them.
        num_classes: Number of classes.
        roi_fusion: RoI fusions by name, applied in order.
        scores: ``both``: ``p_s + p_st * (1 - p_s)``; or the scores of one head alone.
        width: Of the fully connected layers.
        resolution: Bins along each side of a RoI.
        anchor_scale: Square root of the area of an anchor, in strides of its level.
        train_limits: Proposals in training.
        test_limits: Proposals otherwise.
        rpn_samples: Anchors of a frame that are trained on.
        roi_samples: RoIs of a clip that are trained on.
        score_threshold: Detections have higher scores.
        nms_iou: Of two detections of a class with a higher IoU only the better is kept.
        max_detections: Most detections of a frame.

    Raises:
        ConfigError: If ``scores`` asks for a head that is not there, or if several RoI fusions look
            at key frames.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        num_classes: int,
        *,
        roi_fusion: RoIFusionFactories | None = None,
        scores: str = "both",
        width: int = 1024,
        resolution: int = 7,
        anchor_scale: float = 8.0,
        train_limits: ProposalLimits = TRAIN_LIMITS,
        test_limits: ProposalLimits = TEST_LIMITS,
        rpn_samples: int = 256,
        roi_samples: int = 512,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.limits = {True: train_limits, False: test_limits}
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.max_detections = max_detections
        self.rpn = RPN(spec, anchor_scale, samples=rpn_samples)
        self.assigner = Assigner(0.5, 0.5, samples=roi_samples, positive_share=0.25)
        self.pooler = RoIPooler(spec.strides, resolution)
        roi_spec = RoISpec(spec.channels[0], resolution)
        self.box_head = BoxHead(roi_spec.width, num_classes, width)
        self.st_head = (
            SpatioTemporalHead(roi_spec, num_classes, roi_fusion, width) if roi_fusion else None
        )
        self.scores = _checked_scores(scores, has_fusion=self.st_head is not None)

    @property
    def _long_term(self) -> LongTermFusion | None:
        return self.st_head.long_term if self.st_head is not None else None

    @property
    def remembers(self) -> bool:
        """Whether an answer depends on what earlier answers have left in the memory."""
        return self._long_term is not None and self._long_term.keys == "memory"

    def encode(self, maps: FeatureMaps) -> dict[str, Tensor]:
        """Return ``logits``, ``deltas`` and ``boxes`` of every anchor of each frame."""
        outputs: dict[str, Tensor] = self.rpn(maps)
        return outputs

    def forward(
        self, windows: Windows, memories: Sequence[TemporalMemory]
    ) -> tuple[dict[str, Tensor], list[TemporalMemory]]:
        """Return ``scores`` ``[B, N, K]``, ``boxes`` ``[B, N, K, 4]``, ``is_valid`` ``[B, N]``.

        Boxes are in pixels of the input, clipped to the picture, one for each class.
        """
        joined = self._joined(windows)
        rois = self._pool(joined, self._proposals(joined))
        logits, deltas = self.box_head(rois.features[rois.reference])
        boxes = class_boxes(deltas, rois.boxes[:, rois.reference])
        scores, after = logits.softmax(dim=-1), list(memories)
        if self.st_head is not None and self.scores != "spatial":
            st_logits, after = self.st_head(rois, self._with_window_keys(windows, memories))
            is_alone = self.scores == "spatio_temporal"
            scores = st_logits.softmax(dim=-1) if is_alone else joined_scores(logits, st_logits)
        predictions = {
            "scores": scores[..., :-1],
            "boxes": torch.stack(
                [clip_boxes(own, size) for own, size in zip(boxes, rois.sizes, strict=True)]
            ),
            "is_valid": rois.is_valid,
        }
        return predictions, after if self.remembers else list(memories)

    def decode(self, predictions: dict[str, Tensor]) -> list[Detections]:
        """Return the detections of each frame after suppression, in input pixels, best first."""
        items = zip(
            predictions["scores"], predictions["boxes"], predictions["is_valid"], strict=True
        )
        return [
            detections_of(
                scores[is_valid],
                boxes[is_valid],
                self.score_threshold,
                self.nms_iou,
                self.max_detections,
            )
            for scores, boxes, is_valid in items
        ]

    def losses(
        self,
        windows: Windows,
        targets: Targets,
        memory_windows: Sequence[tuple[Windows, Targets]] = (),
    ) -> dict[str, Tensor]:
        """Return the losses of the parts that learn.

        ``rpn_class`` and ``rpn_box``, on every frame of the windows; ``class`` and ``box`` of the
        spatial head; ``st_class`` of the spatio-temporal one.

        Args:
            windows: Windows of ``B`` clips.
            targets: Objects of their frames, ``[B][T]``; None where they are not known.
            memory_windows: Windows of the same videos with their targets, for long-term attention.

        Raises:
            ConfigError: If no part learns, or if long-term attention has no memory windows.
            DataError: If boxes shall follow objects that have no track ids.
        """
        losses: dict[str, Tensor] = {}
        if _learns(self.rpn):
            losses |= self.rpn.window_losses(windows, targets)
        joined = self._joined(windows)
        joined_targets = self._joined_targets(windows, targets)
        samples = [
            draw_sample(tubelets, clip, joined.reference, self.num_classes, self.assigner)
            for tubelets, clip in zip(self._proposals(joined), joined_targets, strict=True)
        ]
        rois = self._pool(joined, [sample.tubelets for sample in samples])
        if _learns(self.box_head):
            losses |= self._spatial_losses(rois, samples)
        if self.st_head is not None and _learns(self.st_head):
            memories = self._drawn_memories(windows, targets, memory_windows)
            logits, _ = self.st_head(rois, memories)
            labels = torch.cat([sample.labels for sample in samples])
            losses["st_class"] = class_loss(logits[rois.is_valid], labels)
        if not losses:
            msg = "All parts of the head are frozen: there is nothing to train. Set model.frozen."
            raise ConfigError(msg)
        return losses

    def _spatial_losses(self, rois: RoIs, samples: Sequence[Sample]) -> dict[str, Tensor]:
        logits, deltas = self.box_head(rois.features[rois.reference][rois.is_valid])
        return self.box_head.losses(
            logits,
            deltas,
            rois.boxes[:, rois.reference][rois.is_valid],
            torch.cat([sample.labels for sample in samples]),
            torch.cat([sample.objects for sample in samples]),
        )

    def _links(self) -> bool:
        return self.st_head is not None and self.st_head.joins_frames

    def _joined(self, windows: Windows) -> Windows:
        """Return the windows as far as RoIs are linked: all of them, or the reference frames."""
        if self._links():
            return windows
        return replace(
            windows, index=windows.references.unsqueeze(1), reference=0, is_in_order=False
        )

    def _joined_targets(self, windows: Windows, targets: Targets) -> Targets:
        return targets if self._links() else [[clip[windows.reference]] for clip in targets]

    def _proposals(self, windows: Windows) -> list[Tubelets]:
        return self.rpn.proposals(windows, self.limits[self.training])

    def _pool(self, windows: Windows, tubelets: Sequence[Tubelets]) -> RoIs:
        boxes, objectness, is_valid = padded(tubelets)
        features = self.pooler.of_windows(windows, boxes)
        return RoIs(features, boxes, objectness, is_valid, windows.sizes, windows.reference)

    def _with_window_keys(
        self, windows: Windows, memories: Sequence[TemporalMemory]
    ) -> list[TemporalMemory]:
        """Put the frames of the windows in the place of memory, where those are what is asked."""
        long_term = self._long_term
        if long_term is None or long_term.keys != "window":
            return list(memories)
        length = windows.index.shape[1]
        single = Windows(windows.frames, windows.index.reshape(-1, 1), reference=0)
        best = [item[: long_term.keys_per_frame] for item in self._proposals(single)]
        frames = self._key_frames(single, best)
        return [
            replace(memory, key_frames=tuple(frames[item * length : (item + 1) * length]))
            for item, memory in enumerate(memories)
        ]

    def _key_frames(self, windows: Windows, tubelets: Sequence[Tubelets]) -> list[KeyFrame]:
        with torch.no_grad():
            rois = self._pool(windows, tubelets)
        return cast("SpatioTemporalHead", self.st_head).key_frames(rois)

    def _drawn_memories(
        self, windows: Windows, targets: Targets, memory_windows: Sequence[tuple[Windows, Targets]]
    ) -> list[TemporalMemory]:
        """Return the memories of a training: key frames from the memory windows."""
        long_term = self._long_term
        nothing = [TemporalMemory()] * len(windows)
        if long_term is None or long_term.keys == "window":
            return self._with_window_keys(windows, nothing)
        if not memory_windows:
            msg = (
                "Long-term attention trains on further windows of each clip's video, found none: "
                "set data.memory_windows=2, or keys=window for the frames of the clip itself."
            )
            raise ConfigError(msg)
        now = [clip[windows.reference] for clip in targets]
        drawn = []
        for memory, memory_targets in memory_windows:
            frames = self._drawn_key_frames(memory, memory_targets, long_term.keys_per_frame)
            if long_term.propagate != "none":
                then = [clip[memory.reference] for clip in memory_targets]
                frames = _followed(frames, then, now, windows.sizes)
            drawn.append(frames)
        return [TemporalMemory(key_frames=frames) for frames in zip(*drawn, strict=True)]

    def _drawn_key_frames(
        self, windows: Windows, targets: Targets, keys_per_frame: int
    ) -> list[KeyFrame]:
        joined, targets = self._joined(windows), self._joined_targets(windows, targets)
        tubelets = [
            key_proposals(item, clip, joined.reference, keys_per_frame)
            for item, clip in zip(self._proposals(joined), targets, strict=True)
        ]
        return self._key_frames(joined, tubelets)


def _followed(
    frames: Sequence[KeyFrame],
    then: Sequence[Target | None],
    now: Sequence[Target | None],
    sizes: Int[Tensor, "B 2"],
) -> list[KeyFrame]:
    """Move the RoIs of one key frame of each clip with the tracks of their objects."""
    known = [target for target in (*then, *now) if target is not None]
    ids = torch.cat([target["track_ids"] for target in known])
    if len(ids) and (ids < 0).all():
        msg = (
            "propagate needs to know which annotations are the same object: none of "
            f"{len(ids)} in this batch has an id_track. Add them, or set propagate=none."
        )
        raise DataError(msg)
    return [
        follow_tracks(frame, old, new, size) if old is not None and new is not None else frame
        for frame, old, new, size in zip(frames, then, now, sizes, strict=True)
    ]


def _learns(*modules: nn.Module) -> bool:
    return any(weight.requires_grad for module in modules for weight in module.parameters())


def _checked_scores(scores: str, *, has_fusion: bool) -> str:
    if scores not in SCORES:
        msg = f"TwoStageHead: scores must be one of {', '.join(SCORES)}; found {scores!r}."
        raise ConfigError(msg)
    if not has_fusion and scores == "spatio_temporal":
        msg = "scores=spatio_temporal needs a RoI fusion; model/head/roi_fusion is none."
        raise ConfigError(msg)
    return scores if has_fusion else "spatial"
