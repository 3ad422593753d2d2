"""The two-stage head: region proposals, candidate fusions and one or two classifying heads.

Sources: S. Ren et al., "Faster R-CNN" (arXiv 1506.01497), for the head without a candidate fusion;
D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided attention
for video object detection", Image and Vision Computing, 2021 (SLTnet), for the double head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
    prefixed,
)
from vodet.errors import ConfigError
from vodet.fusion_chain import FusionChain
from vodet.heads.anchors import Anchors
from vodet.heads.box_head import (
    LAYERS,
    BoxHead,
    RoILayers,
    class_boxes,
    class_loss,
    detections_of,
    joined_scores,
)
from vodet.heads.frame_candidates import encoded, encoded_candidates, with_support
from vodet.heads.linking import ProposalLimits, Proposals
from vodet.heads.matching import Assigner
from vodet.heads.proposals import Tubelets, draw_sample, key_proposals, padded
from vodet.heads.roi_pooler import ROI_ALIGN, RoIAlign, RoIPooler
from vodet.heads.rpn import ANCHORS, RPN
from vodet.heads.spatio_temporal import SpatioTemporalHead
from vodet.stages import CandidateFusionFactories, Head, Targets
from vodet.structures import Detections

SCORES = ("both", "spatial", "spatio_temporal")
REFINES = ("scores", "boxes")
_LINKED = ("anchor_logits", "anchor_boxes")
_PROPOSALS = ("proposal_boxes", "proposal_scores", "proposal_is_valid")
TRAIN_LIMITS = ProposalLimits(pre_nms_top_n=2000, post_nms_top_n=1000)
TEST_LIMITS = ProposalLimits(pre_nms_top_n=1000, post_nms_top_n=1000)


class TwoStageHead(Head):
    """Finds region proposals, pools and fuses their features, and predicts classes and boxes.

    ``refine`` chooses what is predicted from the fused features. ``refine="scores"`` is the double
    head of SLTnet: the box head of Faster R-CNN uses only the reference frame, and a
    spatio-temporal head classifies the fused features. With ``refine="boxes"``, as in SELSA, a
    single box head predicts classes and boxes from the fused features. Without a candidate fusion,
    the head is Faster R-CNN in both cases.

    If a fusion needs linked candidates, a proposal is the same anchor in all frames of the window.
    Otherwise proposals depend on a single frame, and are computed and pooled once per frame.

    Args:
        spec: Levels of the maps, all with the same number of channels, as from an FPN.
        num_classes: Number of classes.
        fusion: Candidate fusions by name, applied in order.
        refine: ``scores`` or ``boxes``.
        scores: With a candidate fusion and ``refine="scores"``, ``both`` combines the score p_s of
            the box head and the score p_st of the spatio-temporal head as
            ``p_s + p_st * (1 - p_s)``; ``spatial`` uses only p_s, ``spatio_temporal`` only p_st.
        width: Width of the fully connected layers.
        resolution: Number of bins along each side of a RoI.
        anchors: The anchors of every cell.
        rpn_convs: Number of 3 x 3 convolutions of the region proposal network.
        roi_align: Function that pools RoIs from the maps of one level.
        layers: Number of convolutions and of fully connected layers for the features of a RoI, in
            each of the heads.
        train_limits: Limits on proposals in training mode.
        test_limits: Limits on proposals in evaluation mode.
        rpn_batch_size_per_image: Maximum number of anchors per frame that are sampled for the
            losses.
        box_batch_size_per_image: Maximum number of RoIs per window that are sampled for the losses.
        score_threshold: Minimum score of a detection (exclusive).
        nms_iou: IoU threshold of non-maximum suppression within a class.
        max_detections: Maximum number of detections per frame.
        min_size: Minimum length of the sides of a detection (exclusive), in input pixels.

    Raises:
        ConfigError: If ``refine`` or ``scores`` is unknown, or ``scores`` needs a spatio-temporal
            head that does not exist.
    """

    base_parts = ("rpn",)

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
        anchors: Anchors = ANCHORS,
        rpn_convs: int = 1,
        roi_align: RoIAlign = ROI_ALIGN,
        layers: RoILayers = LAYERS,
        train_limits: ProposalLimits = TRAIN_LIMITS,
        test_limits: ProposalLimits = TEST_LIMITS,
        rpn_batch_size_per_image: int = 256,
        box_batch_size_per_image: int = 512,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        min_size: float = 0.0,
    ) -> None:
        super().__init__()
        is_double = bool(fusion) and refine == "scores"
        _check_options(refine, scores, is_double=is_double)
        self.num_classes = num_classes
        self.limits = {True: train_limits, False: test_limits}
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.max_detections = max_detections
        self.min_size = min_size
        self.rpn = RPN(spec, anchors, rpn_batch_size_per_image, rpn_convs)
        self.assigner = Assigner(
            0.5, 0.5, batch_size_per_image=box_batch_size_per_image, positive_fraction=0.25
        )
        self.pooler = RoIPooler(spec.strides, resolution, align=roi_align)
        self.cached_levels = self.pooler.levels[-1] + 1
        roi_spec = CandidateSpec(spec.channels[0], resolution)
        self.fusion = FusionChain(roi_spec, fusion or {})
        self.remembers = self.fusion.remembers
        box_spec = roi_spec if is_double else self.fusion.spec
        self.box_head = BoxHead(box_spec, num_classes, width, layers)
        self.st_head = (
            SpatioTemporalHead(self.fusion.spec, num_classes, width, layers) if is_double else None
        )
        self.scores = scores

    def encode(
        self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps
    ) -> Mapping[str, Tensor]:
        """Return the predictions for the anchors, or the candidates, of each frame.

        In training, or if proposals are linked, the tensors are ``anchor_logits`` ``[F, A]`` and
        ``anchor_boxes`` ``[F, A, 4]``, in training also ``anchor_deltas`` ``[F, A, 4]``. Otherwise
        they describe the candidates: ``boxes`` ``[F, N, 4]``, ``scores`` and ``is_valid``
        ``[F, N]``, ``confidences`` ``[F, N, 2]`` and ``features`` ``[F, N, C, s, s]``. Tensors that
        the candidate fusions encode from the candidates are added with the prefix ``fusion.``.
        """
        anchors: dict[str, Tensor] = self.rpn(maps)
        frames = EncodedFrames(maps, sizes, anchors)
        if self._trains:
            return self.complete(frames)
        if self.fusion.needs_links:
            return {name: anchors[name] for name in _LINKED}
        candidates = self._frame_candidates(frames)
        fused = self.fusion.encode_candidates(candidates)
        return encoded(candidates) | prefixed("fusion", fused)

    def detect(
        self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps
    ) -> Mapping[str, Tensor]:
        """Return the output of the RPN.

        If a fusion needs linked candidates, the output is the RPN's predictions for all anchors,
        ``anchor_logits`` ``[F, A]`` and ``anchor_boxes`` ``[F, A, 4]``. Otherwise, it is the
        proposals, ``proposal_boxes`` ``[F, N, 4]``, ``proposal_scores`` and ``proposal_is_valid``
        ``[F, N]``.
        """
        anchors: dict[str, Tensor] = self.rpn(maps)
        if self.fusion.needs_links:
            return {name: anchors[name] for name in _LINKED}
        frames = Selection.all(EncodedFrames(maps, sizes, anchors))
        found = self._proposals([frames], 0)
        tensors = (found.boxes[:, 0], found.scores, found.is_valid)
        return dict(zip(_PROPOSALS, tensors, strict=True))

    def complete(self, frames: EncodedFrames) -> Mapping[str, Tensor]:
        """Add the tensors that the candidate fusions encode from each frame's candidates."""
        extras = dict(frames.extras)
        if self.fusion.encodes_candidates:
            candidates = self._frame_candidates(frames)
            extras |= prefixed("fusion", self.fusion.encode_candidates(candidates))
        return extras

    def detect_settings(self) -> Mapping[str, Any]:
        """Return the anchors and, if proposals are not linked, their limits."""
        limits = None if self.fusion.needs_links else self.limits[self.training]
        return {"strides": self.rpn.strides, "anchors": self.rpn.shapes, "limits": limits}

    def _proposals(self, places: Sequence[Selection], reference: int) -> Proposals:
        """Return the proposals of windows; in training from a cache, `detect` has made them."""
        own = places[reference]
        if _PROPOSALS[0] in own.frames.extras:
            boxes, scores, is_valid = (own.extra(name) for name in _PROPOSALS)
            return Proposals(boxes.unsqueeze(1), scores, is_valid)
        return self.rpn.proposals(places, reference, self.limits[self.training])

    @property
    def _trains(self) -> bool:
        """Whether losses may be computed, even of a frozen head, which is in evaluation mode."""
        return self.training or torch.is_grad_enabled()

    @property
    def uses_support(self) -> bool:  # type: ignore[override]  # depends on the fusion
        """Whether the losses or the candidate fusions use support frames."""
        fusion = self.fusion
        joins = fusion.needs_links or fusion.joins_frames or fusion.encodes_candidates
        return self._trains or joins

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        """Return the initial state of the candidate fusions."""
        return self.fusion.begin(videos, frames)

    def forward(self, windows: WindowBatch, state: State) -> tuple[dict[str, Tensor], State]:
        """Return ``scores``, ``boxes`` and ``is_valid`` of the candidates, and the new state.

        The shapes are ``[B, N, K]``, ``[B, N, K, 4]`` and ``[B, N]``. Each candidate has a box per
        class, in input pixels and clipped to the picture.
        """
        candidates = self._candidates(windows)
        fused, state = self.fusion(candidates, state)
        boxed = fused if self.st_head is None else candidates.current
        logits, deltas = self.box_head(boxed.features[0])
        boxes = class_boxes(deltas, boxed.boxes[:, 0])
        outputs = {
            "scores": self._scores(logits, fused)[..., :-1],
            "boxes": clip_boxes(boxes, boxed.sizes[:, None, None]),
            "is_valid": boxed.is_valid[:, 0],
        }
        return outputs, state

    def _scores(self, logits: Tensor, fused: Candidates) -> Tensor:
        if self.st_head is None or self.scores == "spatial":
            return logits.softmax(dim=-1)
        st_logits: Tensor = self.st_head(fused.features[0])
        if self.scores == "spatio_temporal":
            return st_logits.softmax(dim=-1)
        return joined_scores(logits, st_logits)

    def best(self, outputs: dict[str, Tensor]) -> Detections:
        """Return the detections after non-maximum suppression, in input pixels."""
        return detections_of(
            outputs["scores"],
            outputs["boxes"],
            outputs["is_valid"],
            self.score_threshold,
            self.nms_iou,
            self.max_detections,
            self.min_size,
        )

    def losses(
        self, windows: WindowBatch, targets: Targets, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """Return the losses of the trainable parts, and the new state.

        The losses of the region proposal network, from every annotated frame of the windows, are
        ``rpn_class`` and ``rpn_box``. The losses of the box head are ``class`` and ``box``, and the
        loss of the spatio-temporal head is ``st_class``, all from the reference frames.

        Raises:
            ConfigError: If no part is trainable.
        """
        losses: dict[str, Tensor] = {}
        maps = windows.current.frames.maps
        if _learns(maps, self.rpn):
            losses |= self.rpn.window_losses(windows, targets)
        places, reference = self._places(windows)
        proposals = self._proposals(places, reference)
        samples = [
            draw_sample(tubelets, clip, reference, self.num_classes, self.assigner)
            for tubelets, clip in zip(
                Tubelets.of(proposals), self._targets(windows, targets), strict=True
            )
        ]
        rois = padded([sample.tubelets for sample in samples])
        candidates = self._pool(places, rois, reference)
        fused, state = self.fusion(self._with_support(candidates, windows), state)
        boxed = fused if self.st_head is None else candidates.current
        labels = torch.cat([sample.labels for sample in samples])
        objects = torch.cat([sample.objects for sample in samples])
        fusion = [self.fusion] if self.st_head is None else []
        if _learns(maps, self.box_head, *fusion):
            logits, deltas = self.box_head(boxed.features[0][rois.is_valid])
            boxes = boxed.boxes[:, 0][rois.is_valid]
            losses |= self.box_head.losses(logits, deltas, boxes, labels, objects)
        if self.st_head is not None and _learns(maps, self.st_head, self.fusion):
            losses["st_class"] = class_loss(self.st_head(fused.features[0][rois.is_valid]), labels)
        if not losses:
            msg = (
                "The losses of the head have no trainable weights: model.frozen lists all parts of "
                "the detector. Remove one of them from model.frozen."
            )
            raise ConfigError(msg)
        return losses, state

    def recall(
        self, state: State, history: Sequence[WindowBatch], targets: Sequence[Targets], now: Targets
    ) -> State:
        """Return the state that the candidate fusions compute from the history windows.

        They get the best candidates of each window and all its annotated objects, so that a window
        with objects always has candidates. Only the layers of the fusions get gradients through the
        state.
        """
        if not self.remembers:
            return state
        past = []
        for windows, then in zip(history, targets, strict=True):
            places, reference = self._places(windows)
            proposals = self._proposals(places, reference)
            count = self.fusion.keys_per_frame or proposals.scores.shape[1]
            keys = [
                key_proposals(tubelets, clip, reference, count)
                for tubelets, clip in zip(
                    Tubelets.of(proposals), self._targets(windows, then), strict=True
                )
            ]
            with torch.no_grad():
                candidates = self._pool(places, padded(keys).resized(count), reference)
                past.append(self._with_support(candidates, windows))
        of_references = [
            [clip[windows.reference] for clip in then]
            for windows, then in zip(history, targets, strict=True)
        ]
        place = history[0].reference if history else 0
        return self.fusion.recall(state, past, of_references, [clip[place] for clip in now])

    def _places(self, windows: WindowBatch) -> tuple[list[Selection], int]:
        """Return the frames in which a proposal has a box, and which of them is the reference.

        These are all frames of the window if proposals are linked, otherwise the reference frame.
        """
        if self.fusion.needs_links:
            return windows.places, windows.reference
        return [windows.current], 0

    def _targets(self, windows: WindowBatch, targets: Targets) -> Targets:
        """Return the objects of the frames in which a proposal has a box: see `_places`."""
        if self.fusion.needs_links:
            return targets
        return [[clip[windows.reference]] for clip in targets]

    def _pool(self, places: Sequence[Selection], rois: Proposals, reference: int) -> Candidates:
        """Return RoIs as candidates, with features pooled from the frame at each position.

        A stream pools the RoIs of support frames again for each window. On a CPU, pooling a RoI is
        as fast as copying its features from an earlier window.

        Args:
            places: For each position of a window, the frames of all windows at this position.
            rois: The RoIs, with a box at each position.
            reference: Position of the reference frame.
        """
        shape = (-1, len(places), -1)
        # RoIs are pooled in float32; positions share frames, so their maps are converted once.
        maps = {id(p.frames): p.frames.maps.map(Tensor.float) for p in places}
        is_linked = self.fusion.needs_links
        return Candidates(
            features=tuple(
                self.pooler.of_frames(maps[id(frames.frames)], boxes, frames.rows)
                for frames, boxes in zip(places, rois.boxes.unbind(dim=1), strict=True)
            ),
            boxes=rois.boxes,
            scores=rois.scores.unsqueeze(1).expand(shape),
            is_valid=rois.is_valid.unsqueeze(1).expand(shape),
            sizes=places[reference].sizes,
            reference=reference,
            linked=is_linked,
            extras={},
            previous_boxes=rois.boxes[:, reference - 1] if is_linked and reference > 0 else None,
        )

    def _frame_candidates(self, frames: EncodedFrames) -> Candidates:
        """Return candidates of single frames; in training, only as many as the fusions encode."""
        all_frames = [Selection.all(frames)]
        rois = self._proposals(all_frames, 0)
        if self._trains and self.fusion.keys_per_frame:
            rois = rois.resized(self.fusion.keys_per_frame)
        return self._pool(all_frames, rois, 0)

    def _candidates(self, windows: WindowBatch) -> Candidates:
        """Return the candidates of windows in evaluation, where no losses are computed."""
        if "features" in windows.current.frames.extras:
            return self._with_support(encoded_candidates(windows.current), windows)
        places, reference = self._places(windows)
        rois = self._proposals(places, reference)
        return self._with_support(self._pool(places, rois, reference), windows)

    def _with_support(self, candidates: Candidates, windows: WindowBatch) -> Candidates:
        return with_support(candidates, windows, self.fusion, self._support)

    def _support(self, frames: Selection, count: int) -> Candidates:
        """Return the best ``count`` candidates of each support frame."""
        if "features" in frames.frames.extras:
            return encoded_candidates(frames).best(count)
        rois = self._proposals([frames], 0).resized(count)
        return self._pool([frames], rois, 0)


def _learns(maps: FeatureMaps, *modules: nn.Module) -> bool:
    """Return whether a loss computed from these maps by these modules would train any weight."""
    weights = [weight for module in modules for weight in module.parameters()]
    return any(tensor.requires_grad for tensor in (*maps.levels, *weights))


def _check_options(refine: str, scores: str, *, is_double: bool) -> None:
    for name, value, options in (("refine", refine, REFINES), ("scores", scores, SCORES)):
        if value not in options:
            msg = f"TwoStageHead: {name} must be one of {', '.join(options)}; found {value!r}."
            raise ConfigError(msg)
    if scores == "spatio_temporal" and not is_double:
        found = "no candidate fusion" if refine == "scores" else f"refine={refine}"
        msg = (
            "TwoStageHead: scores=spatio_temporal needs a candidate fusion (model/head/fusion) and "
            f"refine=scores, found {found}. Set them, or scores=both."
        )
        raise ConfigError(msg)
