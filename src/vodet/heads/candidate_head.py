"""Base class of heads that find candidates (cells or queries) in each frame separately.

Source of the combined scores: D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and
long-term self-guided attention for video object detection", Image and Vision Computing, 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from vodet.boxes import clip_boxes
from vodet.encodings import (
    Candidates,
    CandidateSpec,
    EncodedFrames,
    FeatureMaps,
    Selection,
    State,
    WindowBatch,
    of_stage,
    prefixed,
)
from vodet.errors import ConfigError
from vodet.fusion_chain import FusionChain
from vodet.heads.anchors import decode_boxes, encode_boxes
from vodet.heads.frame_candidates import decoded, encoded_candidates, with_support
from vodet.stages import CandidateFusionFactories, Head, ReferenceTargets, Targets

SCORES = ("both", "spatio_temporal")
REFINES = ("scores", "boxes")
PRIOR = 0.01  # initial score of each class, as in RetinaNet
_DELTA_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class CandidateTargets:
    """Training targets of the predictions from fused features, for each candidate.

    Args:
        scores: Target score of each class, ``[B, N, K]``.
        is_trained: Whether the candidate contributes to the loss of the scores, ``[B, N]``.
        objects: Box of the object that the candidate is assigned to, ``[B, N, 4]``.
        has_object: Whether the candidate is assigned to an object, ``[B, N]``.
    """

    scores: Tensor
    is_trained: Tensor
    objects: Tensor
    has_object: Tensor


class CandidateHead(Head):
    """Finds candidates in each frame, then classifies them again from temporally fused features.

    A per-frame detector finds a fixed number of candidates when a frame is encoded. If there are
    candidate fusions, a spatio-temporal classifier predicts further scores of each candidate from
    its fused features; with ``refine="boxes"``, a regressor also refines its box. Without a
    candidate fusion, the head is only the per-frame detector.

    If the fused features have two branches, the scores are predicted from the first branch and the
    refined boxes from the second branch.

    A subclass implements `detect`, `features`, `frame_losses`, `candidate_targets` and `decode`.

    Args:
        spec: Shape of a candidate's features before the fusions.
        num_classes: Number of classes.
        fusion: Candidate fusions by name, applied in order.
        refine: ``scores`` keeps the boxes of the per-frame detector; ``boxes`` refines them from
            the fused features.
        scores: ``both`` combines the per-frame scores p_s and the scores p_st from fused features
            as ``p_s + p_st * (1 - p_s)``; ``spatio_temporal`` uses only p_st.

    Raises:
        ConfigError: If ``refine`` or ``scores`` is unknown, or a fusion needs linked candidates.
    """

    def __init__(
        self,
        spec: CandidateSpec,
        num_classes: int,
        *,
        fusion: CandidateFusionFactories | None = None,
        refine: str = "scores",
        scores: str = "both",
    ) -> None:
        super().__init__()
        for name, value, options in (("refine", refine, REFINES), ("scores", scores, SCORES)):
            if value not in options:
                msg = (
                    f"{type(self).__name__}: {name} must be one of {', '.join(options)}; found "
                    f"{value!r}."
                )
                raise ConfigError(msg)
        self.num_classes = num_classes
        self.scores = scores
        self.fusion = FusionChain(spec, fusion or {})
        if self.fusion.needs_links:
            msg = (
                f"The candidate fusions {', '.join(fusion or {})} need candidates that are linked "
                f"through the window, but {type(self).__name__} finds "
                "its candidates in each frame separately: use model/head=two_stage, or another "
                "model/head/fusion."
            )
            raise ConfigError(msg)
        self.remembers = self.fusion.remembers
        joins = self.fusion.joins_frames or self.fusion.encodes_candidates
        self.uses_support = bool(fusion) and joins
        width = self.fusion.spec.branch_width
        self.st_classifier = nn.Linear(width, num_classes) if fusion else None
        self.st_regressor = nn.Linear(width, 4) if fusion and refine == "boxes" else None
        if self.st_classifier is not None:
            nn.init.normal_(self.st_classifier.weight, std=0.01)
            nn.init.constant_(self.st_classifier.bias, math.log(PRIOR / (1 - PRIOR)))
        if self.st_regressor is not None:
            nn.init.normal_(self.st_regressor.weight, std=0.001)
            nn.init.zeros_(self.st_regressor.bias)

    def detect(
        self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps
    ) -> Mapping[str, Tensor]:
        """Find the candidates of ``F`` single frames.

        Args:
            pixels: Frames ``[F, 3, H, W]`` uint8 RGB; None if ``maps`` are fused.
            sizes: ``(height, width)`` of each frame without its padding, ``[F, 2]``.
            maps: Maps ``[F, C, h, w]`` of each level.

        Returns:
            Named tensors ``[F, ...]``: the candidates without their features, which are ``boxes``
            ``[F, N, 4]``, ``scores`` and ``is_valid`` ``[F, N]`` and ``confidences``
            ``[F, N, 2]``; ``class_scores`` ``[F, N, K]``, the per-frame detector's scores from 0 to
            1; the input of `features`, with the prefix ``raw.``; and in training the tensors that
            `frame_losses` needs.
        """
        raise NotImplementedError

    def features(self, raw: Mapping[str, Tensor]) -> Tensor:
        """Return the features of the candidates, ``[F, N, C, 1, 1]``.

        Args:
            raw: The tensors that `detect` returned under names starting with ``raw.``, by their
                names after this prefix.
        """
        raise NotImplementedError

    def frame_losses(self, frames: Selection, targets: ReferenceTargets) -> dict[str, Tensor]:
        """Return the per-frame detector's losses on annotated frames, or {} if it is frozen."""
        raise NotImplementedError

    def candidate_targets(
        self, candidates: Candidates, frames: Selection, targets: ReferenceTargets
    ) -> CandidateTargets:
        """Assign candidates to annotated objects and return their training targets.

        Args:
            candidates: Candidates of the reference frames of ``B`` windows, after the fusions.
            frames: The reference frames.
            targets: Objects of the reference frames; None for frames without annotations.
        """
        raise NotImplementedError

    def encode(
        self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps
    ) -> Mapping[str, Tensor]:
        """Return each frame's candidates, and the tensors that the fusions encode from them."""
        return self.complete(EncodedFrames(maps, sizes, self.detect(pixels, sizes, maps)))

    def complete(self, frames: EncodedFrames) -> Mapping[str, Tensor]:
        """Add the candidates' features, and the tensors that the fusions encode from them."""
        tensors = {n: tensor for n, tensor in frames.extras.items() if not n.startswith("raw.")}
        tensors["features"] = self.features(of_stage("raw", frames.extras))
        fused = self.fusion.encode_candidates(decoded(tensors, frames.sizes))
        return tensors | prefixed("fusion", fused)

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        """Return the initial state of the candidate fusions."""
        return self.fusion.begin(videos, frames)

    def forward(self, windows: WindowBatch, state: State) -> tuple[dict[str, Tensor], State]:
        """Return ``scores``, ``boxes`` and ``is_valid`` of the candidates, and the new state.

        The shapes are ``[B, N, K]``, ``[B, N, 4]`` and ``[B, N]``. Boxes are in input pixels.
        """
        candidates = self._candidates(windows)
        fused, state = self.fusion(candidates, state)
        scores, boxes = windows.current.extra("class_scores"), fused.boxes[:, 0]
        if self.st_classifier is not None:
            p_st = self.st_scores(fused)
            scores = scores + p_st * (1 - scores) if self.scores == "both" else p_st
        if self.st_regressor is not None:
            deltas = self.st_regressor(self.fusion.spec.split(fused.features[0])[1]).float()
            boxes = clip_boxes(decode_boxes(deltas, boxes, _DELTA_WEIGHTS), fused.sizes[:, None])
        return {"scores": scores, "boxes": boxes, "is_valid": fused.is_valid[:, 0]}, state

    def st_scores(self, fused: Candidates) -> Tensor:
        """Return the class scores predicted from fused features, from 0 to 1, ``[B, N, K]``."""
        return self._st_logits(fused).sigmoid()

    def _st_logits(self, fused: Candidates) -> Tensor:
        assert self.st_classifier is not None
        logits: Tensor = self.st_classifier(self.fusion.spec.split(fused.features[0])[0])
        return logits.float()

    def losses(
        self, windows: WindowBatch, targets: Targets, state: State
    ) -> tuple[dict[str, Tensor], State]:
        """Return the losses of the trainable parts, and the new state.

        They are the losses of the per-frame detector and, with a candidate fusion, ``st_class`` and
        ``st_box``. ``st_class`` is the binary cross-entropy of the spatio-temporal scores, summed
        over classes; ``st_box`` is the L1 loss of the refined boxes' deltas, if boxes are refined.
        Both are divided by the number of candidates that contribute to them.

        Raises:
            ConfigError: If no part is trainable.
        """
        references = [clip[windows.reference] for clip in targets]
        losses = self.frame_losses(windows.current, references)
        if self.st_classifier is not None:
            fused, state = self.fusion(self._candidates(windows), state)
            wanted = self.candidate_targets(fused, windows.current, references)
            losses |= self.st_losses(fused, wanted)
        if not any(loss.requires_grad for loss in losses.values()):
            msg = (
                "The losses of the head have no trainable weights: model.frozen lists all parts of "
                "the detector. Remove one of them from model.frozen."
            )
            raise ConfigError(msg)
        return losses, state

    def st_losses(self, fused: Candidates, wanted: CandidateTargets) -> dict[str, Tensor]:
        """Return the losses of the scores and boxes that are predicted from fused features.

        Args:
            fused: Candidates of the reference frames with fused features.
            wanted: Training targets of these candidates.
        """
        logits = self._st_logits(fused)
        terms = F.binary_cross_entropy_with_logits(logits, wanted.scores, reduction="none")
        is_trained = wanted.is_trained.unsqueeze(2)
        losses = {"st_class": (terms * is_trained).sum() / is_trained.sum().clamp(min=1)}
        if self.st_regressor is not None:
            found = wanted.has_object
            features = self.fusion.spec.split(fused.features[0])[1]
            deltas = self.st_regressor(features[found]).float()
            goal = encode_boxes(wanted.objects[found], fused.boxes[:, 0][found], _DELTA_WEIGHTS)
            losses["st_box"] = (deltas - goal).abs().sum() / max(len(goal), 1)
        return losses

    def recall(
        self, state: State, history: Sequence[WindowBatch], targets: Sequence[Targets], now: Targets
    ) -> State:
        """Return the state that the candidate fusions compute from the history windows."""
        if not self.remembers:
            return state
        past = [self._candidates(windows) for windows in history]
        of_references = [
            [clip[windows.reference] for clip in then]
            for windows, then in zip(history, targets, strict=True)
        ]
        place = history[0].reference if history else 0
        return self.fusion.recall(state, past, of_references, [clip[place] for clip in now])

    def _candidates(self, windows: WindowBatch) -> Candidates:
        """Return the candidates of the reference frames and, if needed, of the support frames."""
        return with_support(
            encoded_candidates(windows.current),
            windows,
            self.fusion,
            lambda frames, count: encoded_candidates(frames).best(count),
        )
