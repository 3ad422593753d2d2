"""The two-stage head: proposals, candidate fusions, and one or two heads on their features.

Sources: S. Ren et al., "Faster R-CNN" (arXiv 1506.01497), which it is without a candidate fusion;
D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided attention
for video object detection", Image and Vision Computing, 2021 (SLTnet), for the double head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vodet.boxes import clip_boxes
from vodet.encodings import (
    Candidates,
    CandidateSpec,
    EncodedFrames,
    FeatureMaps,
    FeatureSpec,
    Selection,
    State,
    WindowBatch,
    of_stage,
    prefixed,
)
from vodet.errors import ConfigError
from vodet.fusion_chain import FusionChain
from vodet.heads.box_head import (
    BoxHead,
    class_boxes,
    class_loss,
    detections_of,
    joined_scores,
)
from vodet.heads.linking import ProposalLimits, Proposals
from vodet.heads.matching import Assigner
from vodet.heads.proposals import Tubelets, draw_sample, key_proposals, padded
from vodet.heads.roi_pooler import RoIPooler
from vodet.heads.rpn import RPN
from vodet.heads.spatio_temporal import SpatioTemporalHead
from vodet.stages import CandidateFusionFactories, Head, Targets
from vodet.structures import Detections

SCORES = ("both", "spatial", "spatio_temporal")
REFINES = ("scores", "boxes")
TRAIN_LIMITS = ProposalLimits(per_level=2000, total=1000)
TEST_LIMITS = ProposalLimits(per_level=1000, total=1000)


class TwoStageHead(Head):
    """Region proposals, RoI features, candidate fusions and a box head.

    What the fused features refine is an option. ``refine="scores"`` is the double head of SLTnet:
    the box head of Faster R-CNN sees the reference frame alone, and a spatio-temporal head
    classifies the fused features. With ``refine="boxes"``, as in SELSA, there is one box head, for
    classes and boxes, on the fused features. Without a candidate fusion both are Faster R-CNN.

    Proposals are linked through the window where a fusion needs that. Else they depend on one frame
    alone, and are made and pooled once for each frame.

    Args:
        spec: Levels of the maps, all of one width, as an FPN makes them.
        num_classes: Number of classes.
        fusion: Candidate fusions by name, applied in order.
        refine: ``scores`` or ``boxes``.
        scores: With ``refine="scores"``, ``both``: ``p_s + p_st * (1 - p_s)``; or the scores of one
            head alone.
        width: Of the fully connected layers.
        resolution: Bins along each side of a RoI.
        anchor_scale: Square root of the area of an anchor, in strides of its level.
        train_limits: Proposals in training.
        test_limits: Proposals otherwise.
        rpn_samples: Anchors of a frame that are trained on.
        roi_samples: RoIs of a window that are trained on.
        score_threshold: Detections have higher scores.
        nms_iou: Of two detections of a class with a higher IoU only the better is kept.
        max_detections: Most detections of a frame.

    Raises:
        ConfigError: If ``refine`` or ``scores`` is unknown, or asks for a head that is not there.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        num_classes: int,
        *,
        fusion: CandidateFusionFactories | None = None,
        refine: str = "scores",
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
        is_double = bool(fusion) and refine == "scores"
        _check_options(refine, scores, is_double=is_double)
        self.num_classes = num_classes
        self.limits = {True: train_limits, False: test_limits}
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.max_detections = max_detections
        self.rpn = RPN(spec, anchor_scale, samples=rpn_samples)
        self.assigner = Assigner(0.5, 0.5, samples=roi_samples, positive_share=0.25)
        self.pooler = RoIPooler(spec.strides, resolution)
        roi_spec = CandidateSpec(spec.channels[0], resolution)
        self.fusion = FusionChain(roi_spec, fusion or {})
        self.remembers = self.fusion.remembers
        box_spec = roi_spec if is_double else self.fusion.spec
        self.box_head = BoxHead(box_spec, num_classes, width)
        self.st_head = (
            SpatioTemporalHead(self.fusion.spec, num_classes, width) if is_double else None
        )
        self.scores = scores

    def encode(
        self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps
    ) -> Mapping[str, Tensor]:
        """Return what is known of each frame by itself.

        Where proposals are linked, and in training, these are the anchors: ``anchor_logits``
        ``[F, A]`` and ``anchor_boxes`` ``[F, A, 4]``, in training ``anchor_deltas`` too. Else they
        are candidates: ``boxes`` ``[F, N, 4]``, ``scores``, ``is_valid`` and ``features``. What the
        candidate fusion encodes of each frame's candidates is beside them, under ``fusion``.
        """
        anchors: dict[str, Tensor] = self.rpn(maps)
        if self.training:
            encoded = dict(anchors)
        elif self.fusion.needs_links:
            encoded = {name: anchors[name] for name in ("anchor_logits", "anchor_boxes")}
        else:
            encoded = {}
        if self.fusion.encodes_candidates or not encoded:
            candidates = self._own_candidates(EncodedFrames(maps, sizes, anchors))
            encoded |= prefixed("fusion", self.fusion.encode_candidates(candidates))
            if not self.training:
                encoded |= {
                    "boxes": candidates.boxes[:, 0],
                    "scores": candidates.scores[:, 0],
                    "is_valid": candidates.is_valid[:, 0],
                    "features": candidates.features[0],
                }
        return encoded

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        """Return the state of the candidate fusion."""
        return self.fusion.begin(videos, frames)

    def forward(self, windows: WindowBatch, state: State) -> tuple[dict[str, Tensor], State]:
        """Return ``scores`` ``[B, N, K]``, ``boxes`` ``[B, N, K, 4]``, ``is_valid`` ``[B, N]``.

        Boxes are in pixels of the input, clipped to the picture, one for each class.
        """
        candidates = self._candidates(windows)
        fused, state = self.fusion(candidates, state)
        seen = fused if self.st_head is None else candidates.current
        logits, deltas = self.box_head(seen.features[0])
        boxes = class_boxes(deltas, seen.boxes[:, 0])
        predictions = {
            "scores": self._scores(logits, fused)[..., :-1],
            "boxes": clip_boxes(boxes, seen.sizes[:, None, None]),
            "is_valid": seen.is_valid[:, 0],
        }
        return predictions, state

    def _scores(self, logits: Tensor, fused: Candidates) -> Tensor:
        if self.st_head is None or self.scores == "spatial":
            return logits.softmax(dim=-1)
        st_logits: Tensor = self.st_head(fused.features[0])
        if self.scores == "spatio_temporal":
            return st_logits.softmax(dim=-1)
        return joined_scores(logits, st_logits)

    def decode(self, predictions: dict[str, Tensor]) -> list[Detections]:
        """Return the detections of each frame after suppression, in input pixels, best first."""
        return detections_of(
            predictions["scores"],
            predictions["boxes"],
            predictions["is_valid"],
            self.score_threshold,
            self.nms_iou,
            self.max_detections,
        )

    def losses(
        self, windows: WindowBatch, targets: Targets, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """Return the losses of the parts that learn, and the state.

        ``rpn_class`` and ``rpn_box``, on every annotated frame of the windows; ``class`` and
        ``box`` of the box head; ``st_class`` of the spatio-temporal one.

        Raises:
            ConfigError: If no part learns.
        """
        losses: dict[str, Tensor] = {}
        if _learns(self.rpn):
            losses |= self.rpn.window_losses(windows, targets)
        places, reference, aligned = self._joined(windows, targets)
        proposals = self.rpn.proposals(places, reference, self.limits[True])
        samples = [
            draw_sample(tubelets, clip, reference, self.num_classes, self.assigner)
            for tubelets, clip in zip(Tubelets.of(proposals), aligned, strict=True)
        ]
        rois = padded([sample.tubelets for sample in samples])
        sampled = self._pool(places, rois, reference)
        fused, state = self.fusion(self._with_support(sampled, windows), state)
        seen = fused if self.st_head is None else sampled.current
        labels = torch.cat([sample.labels for sample in samples])
        objects = torch.cat([sample.objects for sample in samples])
        learning = (self.box_head, self.fusion) if self.st_head is None else (self.box_head,)
        if _learns(*learning):
            logits, deltas = self.box_head(seen.features[0][rois.is_valid])
            boxes = seen.boxes[:, 0][rois.is_valid]
            losses |= self.box_head.losses(logits, deltas, boxes, labels, objects)
        if self.st_head is not None and _learns(self.st_head, self.fusion):
            losses["st_class"] = class_loss(self.st_head(fused.features[0])[rois.is_valid], labels)
        if not losses:
            msg = "All parts of the head are frozen: there is nothing to train. Set model.frozen."
            raise ConfigError(msg)
        return losses, state

    def recall(
        self, state: State, history: Sequence[WindowBatch], targets: Sequence[Targets], now: Targets
    ) -> State:
        """Let the candidate fusion recall its state from the best candidates of the history.

        The last of them are replaced by annotated objects, so that a window with objects always
        has candidates. Only the layers of the fusion learn from what is recalled.
        """
        if not self.remembers:
            return state
        past, past_targets = [], []
        for windows, then in zip(history, targets, strict=True):
            places, reference, aligned = self._joined(windows, then)
            proposals = self.rpn.proposals(places, reference, self.limits[True])
            count = self.fusion.keys_per_frame or proposals.scores.shape[1]
            keys = [
                key_proposals(tubelets, clip, reference, count)
                for tubelets, clip in zip(Tubelets.of(proposals), aligned, strict=True)
            ]
            with torch.no_grad():
                rois = self._pool(places, padded(keys).resized(count), reference)
                past.append(self._with_support(rois, windows))
            past_targets.append([[clip[windows.reference]] for clip in then])
        own = [[clip[windows.reference]] for clip in now] if history else now
        return self.fusion.recall(state, past, past_targets, own)

    def _joined(
        self, windows: WindowBatch, targets: Targets
    ) -> tuple[list[Selection], int, Targets]:
        """Return the frames through which proposals are linked, and the targets of these."""
        if self.fusion.needs_links:
            places = [windows.at(place) for place in range(windows.index.shape[1])]
            return places, windows.reference, targets
        return [windows.current], 0, [[clip[windows.reference]] for clip in targets]

    def _pool(self, places: Sequence[Selection], rois: Proposals, reference: int) -> Candidates:
        """Pool the features of RoIs ``[B, T, N]`` at each place of the windows."""
        shape = (-1, len(places), -1)
        return Candidates(
            features=tuple(
                self.pooler.of_frames(frames.frames.maps, boxes, frames.rows)
                for frames, boxes in zip(places, rois.boxes.unbind(dim=1), strict=True)
            ),
            boxes=rois.boxes,
            scores=rois.scores.unsqueeze(1).expand(shape),
            is_valid=rois.is_valid.unsqueeze(1).expand(shape),
            sizes=places[reference].sizes,
            reference=reference,
            linked=self.fusion.needs_links,
            extras={},
        )

    def _own_candidates(self, frames: EncodedFrames) -> Candidates:
        """Return the candidates of single frames; in training, those that a fusion encodes."""
        everything = Selection(frames, torch.arange(len(frames), device=frames.sizes.device))
        rois = self.rpn.proposals([everything], 0, self.limits[self.training])
        if self.training and self.fusion.keys_per_frame:
            rois = rois.resized(self.fusion.keys_per_frame)
        return self._pool([everything], rois, 0)

    def _candidates(self, windows: WindowBatch) -> Candidates:
        """Return the candidates of windows, in evaluation."""
        if self.fusion.needs_links or self.training:
            places, reference, _ = self._joined(windows, [])
            rois = self.rpn.proposals(places, reference, self.limits[self.training])
            return self._with_support(self._pool(places, rois, reference), windows)
        return self._with_support(_encoded_candidates(windows.current), windows)

    def _with_support(self, candidates: Candidates, windows: WindowBatch) -> Candidates:
        """Add what the fusion asks for beside candidates of the reference frames."""
        places = [windows.at(place) for place in range(windows.index.shape[1])]
        names = of_stage("fusion", windows.frames.extras)
        extras = {
            name: torch.stack([place.extra(f"fusion.{name}") for place in places], dim=1)
            for name in names
        }
        candidates = replace(candidates, extras=extras)
        if self.fusion.needs_links or not self.fusion.joins_frames:
            return candidates
        return self._beside_support(candidates, places, windows.reference)

    def _beside_support(
        self, candidates: Candidates, places: Sequence[Selection], reference: int
    ) -> Candidates:
        """Put the candidates of support frames beside those of the reference frames."""
        count = candidates.boxes.shape[2]
        frames = []
        for place, selection in enumerate(places):
            if place == reference:
                frames.append(candidates)
            elif self.training:
                rois = self.rpn.proposals([selection], 0, self.limits[True]).resized(count)
                frames.append(self._pool([selection], rois, 0))
            else:
                frames.append(_encoded_candidates(selection))
        return replace(
            candidates,
            features=tuple(frame.features[0] for frame in frames),
            boxes=torch.cat([frame.boxes for frame in frames], dim=1),
            scores=torch.cat([frame.scores for frame in frames], dim=1),
            is_valid=torch.cat([frame.is_valid for frame in frames], dim=1),
            reference=reference,
        )


def _encoded_candidates(frames: Selection) -> Candidates:
    """Return the candidates that were made when each frame was encoded."""
    boxes, scores, is_valid = (frames.extra(name) for name in ("boxes", "scores", "is_valid"))
    return Candidates(
        features=(frames.extra("features"),),
        boxes=boxes.unsqueeze(1),
        scores=scores.unsqueeze(1),
        is_valid=is_valid.unsqueeze(1),
        sizes=frames.sizes,
        reference=0,
        linked=False,
        extras={},
    )


def _learns(*modules: nn.Module) -> bool:
    return any(weight.requires_grad for module in modules for weight in module.parameters())


def _check_options(refine: str, scores: str, *, is_double: bool) -> None:
    for name, value, options in (("refine", refine, REFINES), ("scores", scores, SCORES)):
        if value not in options:
            msg = f"TwoStageHead: {name} must be one of {', '.join(options)}; found {value!r}."
            raise ConfigError(msg)
    if scores == "spatio_temporal" and not is_double:
        msg = (
            "scores=spatio_temporal needs a spatio-temporal head: a candidate fusion "
            "(model/head/fusion) and refine=scores."
        )
        raise ConfigError(msg)
