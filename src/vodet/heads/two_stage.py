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
from jaxtyping import Float, Int
from torch import Tensor, nn

from vodet.boxes import clip_boxes
from vodet.errors import ConfigError, DataError
from vodet.heads.box_head import (
    BoxHead,
    RoIEncoder,
    class_boxes,
    class_loss,
    detections_of,
    joined_scores,
)
from vodet.heads.key_frames import follow_tracks
from vodet.heads.linking import ProposalLimits
from vodet.heads.matching import Assigner
from vodet.heads.proposals import (
    Sample,
    Tubelets,
    draw_sample,
    key_proposals,
    linked_proposals,
    padded,
)
from vodet.heads.roi_pooler import RoIPooler
from vodet.heads.rpn import RPN
from vodet.stages import LongTermFusion, RoIFusion, RoIFusionFactories
from vodet.structures import (
    Detections,
    FeatureMaps,
    FeatureSpec,
    KeyFrame,
    RoIs,
    RoISpec,
    Target,
    TemporalMemory,
    Windows,
)

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
        self.fusions = nn.ModuleDict()
        for name, factory in (roi_fusion or {}).items():
            fusion = factory(roi_spec)
            self.fusions[name] = cast("nn.Module", fusion)
            roi_spec = fusion.spec
        self.scores = _checked_scores(scores, has_fusion=bool(self.fusions))
        if sum(isinstance(fusion, LongTermFusion) for fusion in self.fusions.values()) > 1:
            msg = f"At most one RoI fusion may look at key frames, found {list(self.fusions)}."
            raise ConfigError(msg)
        if self.fusions:
            is_encoded = roi_spec.resolution == 1
            self.st_encoder = nn.Identity() if is_encoded else RoIEncoder(roi_spec.width, width)
            self.st_classifier = nn.Linear(roi_spec.width if is_encoded else width, num_classes + 1)

    @property
    def _fusions(self) -> list[RoIFusion]:
        return cast("list[RoIFusion]", list(self.fusions.values()))

    @property
    def _long_term(self) -> LongTermFusion | None:
        return next((f for f in self._fusions if isinstance(f, LongTermFusion)), None)

    @property
    def _links(self) -> bool:
        return any(fusion.joins_frames for fusion in self._fusions)

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
        logits, deltas = self.box_head(rois.features[:, rois.reference])
        boxes = class_boxes(deltas, rois.boxes[:, rois.reference])
        fused, after = rois, list(memories)
        if self.scores != "spatial":
            fused, after = self._fuse(rois, self._with_window_keys(windows, memories))
        predictions = {
            "scores": self._scores(logits, fused)[..., :-1],
            "boxes": torch.stack(
                [clip_boxes(own, size) for own, size in zip(boxes, rois.sizes, strict=True)]
            ),
            "is_valid": rois.is_valid,
        }
        return predictions, after if self.remembers else list(memories)

    def _scores(self, logits: Float[Tensor, "B N K1"], fused: RoIs) -> Float[Tensor, "B N K1"]:
        if self.scores == "spatial":
            return logits.softmax(dim=-1)
        st_logits = self._st_logits(fused)
        if self.scores == "spatio_temporal":
            return st_logits.softmax(dim=-1)
        return joined_scores(logits, st_logits)

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
            losses |= self._rpn_losses(windows, targets)
        joined = self._joined(windows)
        joined_targets = self._joined_targets(windows, targets)
        samples = [
            draw_sample(tubelets, clip, joined.reference, self.num_classes, self.assigner)
            for tubelets, clip in zip(self._proposals(joined), joined_targets, strict=True)
        ]
        rois = self._pool(joined, [sample.tubelets for sample in samples])
        if _learns(self.box_head):
            losses |= self._spatial_losses(rois, samples)
        if self.fusions and _learns(self.fusions, self.st_encoder, self.st_classifier):
            memories = self._drawn_memories(windows, targets, memory_windows)
            fused, _ = self._fuse(rois, memories)
            labels = torch.cat([sample.labels for sample in samples])
            losses["st_class"] = class_loss(self._st_logits(fused)[fused.is_valid], labels)
        if not losses:
            msg = "All parts of the head are frozen: there is nothing to train. Set model.frozen."
            raise ConfigError(msg)
        return losses

    def _rpn_losses(self, windows: Windows, targets: Targets) -> dict[str, Tensor]:
        outputs, index = self._outputs(windows)
        known = torch.tensor([[target is not None for target in clip] for clip in targets])
        frames = index[known.to(index.device)]
        return self.rpn.losses(
            outputs["logits"][frames],
            outputs["deltas"][frames],
            torch.cat(self.rpn.anchors(windows.frames.maps)),
            [target for clip in targets for target in clip if target is not None],
        )

    def _spatial_losses(self, rois: RoIs, samples: Sequence[Sample]) -> dict[str, Tensor]:
        logits, deltas = self.box_head(rois.features[:, rois.reference][rois.is_valid])
        return self.box_head.losses(
            logits,
            deltas,
            rois.boxes[:, rois.reference][rois.is_valid],
            torch.cat([sample.labels for sample in samples]),
            torch.cat([sample.objects for sample in samples]),
        )

    def _joined(self, windows: Windows) -> Windows:
        """Return the windows as far as RoIs are linked: all of them, or the reference frames."""
        if self._links:
            return windows
        return replace(
            windows, index=windows.references.unsqueeze(1), reference=0, is_in_order=False
        )

    def _joined_targets(self, windows: Windows, targets: Targets) -> Targets:
        return targets if self._links else [[clip[windows.reference]] for clip in targets]

    def _outputs(self, windows: Windows) -> tuple[dict[str, Tensor], Tensor]:
        """Return what the RPN says, and which row of it is at each place of each window.

        Where a map fusion has made other maps of the reference frames, it is asked again.
        """
        outputs, index = windows.frames.extras, windows.index
        if windows.fused is None:
            return outputs, index
        again = self.rpn(windows.fused)
        rows = torch.arange(len(index), device=index.device) + len(windows.frames)
        index = index.clone()
        index[:, windows.reference] = rows
        return {name: torch.cat((outputs[name], again[name])) for name in again}, index

    @torch.no_grad()
    def _proposals(self, windows: Windows) -> list[Tubelets]:
        outputs, index = self._outputs(windows)
        counts = [len(level) for level in self.rpn.anchors(windows.frames.maps)]
        return linked_proposals(
            outputs, index, windows.reference, counts, windows.sizes, self.limits[self.training]
        )

    def _pool(self, windows: Windows, tubelets: Sequence[Tubelets]) -> RoIs:
        boxes, objectness, is_valid = padded(tubelets)
        features = self._features(windows, boxes)
        return RoIs(features, boxes, objectness, is_valid, windows.sizes, windows.reference)

    def _features(
        self, windows: Windows, boxes: Float[Tensor, "B T N 4"]
    ) -> Float[Tensor, "B T N C s s"]:
        """Pool each place of the windows from its frame; the reference from the fused maps."""
        clips, _, count = boxes.shape[:3]
        if windows.fused is None:
            frames = windows.index.flatten().repeat_interleave(count)
            pooled = self.pooler(windows.frames.maps, boxes.flatten(0, 2), frames)
            return pooled.view(*boxes.shape[:3], *pooled.shape[1:])
        place = windows.reference
        own = torch.arange(clips, device=boxes.device).repeat_interleave(count)
        fused = self.pooler(windows.fused, boxes[:, place].flatten(0, 1), own)
        parts = [fused.view(clips, 1, count, *fused.shape[1:])]
        for before, after in ((0, place), (place + 1, boxes.shape[1])):
            support = replace(windows, index=windows.index[:, before:after], fused=None)
            features = self._features(support, boxes[:, before:after])
            parts.insert(0 if before == 0 else 2, features)
        return torch.cat(parts, dim=1)

    def _fuse(
        self, rois: RoIs, memories: Sequence[TemporalMemory]
    ) -> tuple[RoIs, list[TemporalMemory]]:
        after = list(memories)
        for fusion in self._fusions:
            rois, after = fusion(rois, after)
        return rois, after

    def _st_logits(self, fused: RoIs) -> Float[Tensor, "B N K1"]:
        logits: Tensor = self.st_classifier(self.st_encoder(fused.features[:, 0].flatten(2)))
        return logits.float()

    def _with_window_keys(
        self, windows: Windows, memories: Sequence[TemporalMemory]
    ) -> list[TemporalMemory]:
        """Put the frames of the windows in the place of memory, where those are what is asked."""
        long_term = self._long_term
        if long_term is None or long_term.keys != "window":
            return list(memories)
        length = windows.index.shape[1]
        single = Windows(windows.frames, windows.index.reshape(-1, 1), reference=0)
        frames = self._key_frames(
            long_term,
            single,
            [item[: long_term.keys_per_frame] for item in self._proposals(single)],
        )
        return [
            replace(memory, key_frames=tuple(frames[item * length : (item + 1) * length]))
            for item, memory in enumerate(memories)
        ]

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
        drawn = [
            self._drawn_key_frames(long_term, memory, memory_targets)
            for memory, memory_targets in memory_windows
        ]
        if long_term.propagate != "none":
            now = [clip[windows.reference] for clip in targets]
            for number, (memory, memory_targets) in enumerate(memory_windows):
                then = [clip[memory.reference] for clip in memory_targets]
                drawn[number] = _followed(drawn[number], then, now, windows.sizes)
        return [TemporalMemory(key_frames=frames) for frames in zip(*drawn, strict=True)]

    def _drawn_key_frames(
        self, long_term: LongTermFusion, windows: Windows, targets: Targets
    ) -> list[KeyFrame]:
        joined, targets = self._joined(windows), self._joined_targets(windows, targets)
        tubelets = [
            key_proposals(item, clip, joined.reference, long_term.keys_per_frame)
            for item, clip in zip(self._proposals(joined), targets, strict=True)
        ]
        return self._key_frames(long_term, joined, tubelets)

    def _key_frames(
        self, long_term: LongTermFusion, windows: Windows, tubelets: Sequence[Tubelets]
    ) -> list[KeyFrame]:
        """Return what long-term attention remembers of RoIs; only its own layers learn from it."""
        with torch.no_grad():
            rois = self._pool(windows, tubelets)
            for fusion in self._fusions:
                if fusion is long_term:
                    break
                rois, _ = fusion(rois, [TemporalMemory()] * len(windows))
        return long_term.key_frames(rois)


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
