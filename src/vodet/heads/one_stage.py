"""The one-stage head: decoupled and anchor-free, with its best cells as candidates.

Sources: Z. Ge et al., "YOLOX" (arXiv 2107.08430), for the detector; Y. Shi, N. Wang, X. Guo,
"YOLOV" (arXiv 2208.09686) and Y. Shi, T. Zhang, X. Guo, "Practical Video Object Detection via
Feature Selection and Aggregation" (arXiv 2407.19650), for the candidates. Three choices are ours:
the number of candidates is fixed, cells in crowd regions do not count as background, and cells in
the padding are never candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vodet.conv_block import conv_block
from vodet.encodings import (
    Candidates,
    CandidateSpec,
    FeatureMaps,
    FeatureSpec,
    Selection,
    of_stage,
    prefixed,
)
from vodet.errors import ConfigError
from vodet.heads.box_head import detections_of
from vodet.heads.candidate_head import PRIOR, CandidateHead, CandidateTargets
from vodet.heads.cells import Cells, flat_cells, gather_cells
from vodet.heads.matching import IGNORED
from vodet.heads.one_stage_targets import CellTargets, candidate_targets, cell_losses
from vodet.heads.simota import assign_cells
from vodet.heads.suppression import suppress
from vodet.stages import CandidateFusionFactories, ReferenceTargets
from vodet.structures import Detections

_CELL_OUTPUTS = ("cell_boxes", "objectness", "class_logits")
_PRIOR_LOGIT = math.log(PRIOR / (1 - PRIOR))


class OneStageHead(CandidateHead):
    """Predicts a box, an objectness and class scores for each cell of each level.

    The score of a class is the objectness times the probability of the class. Without a candidate
    fusion, non-maximum suppression turns the ``pre_nms_top_n`` cells with the highest scores into
    detections.

    With a candidate fusion, the ``num_candidates`` best cells of each frame are its candidates. The
    features of a candidate come from an additional class branch and from the box branch. New class
    probabilities are predicted from the fused features; if these have two branches, as in YOLOV++,
    a new objectness is predicted, too.

    Args:
        spec: Levels of the maps, usually of strides 8, 16 and 32.
        num_classes: Number of classes.
        fusion: Candidate fusions by name, applied in order.
        refine: ``scores`` keeps the per-frame boxes; ``boxes`` refines them from the fused
            features.
        scores: ``spatio_temporal`` uses only the scores p_st from fused features; ``both`` combines
            them with the per-frame scores p_s as ``p_s + p_st * (1 - p_s)``.
        width: Channels of each branch.
        num_candidates: Number of candidates per frame, with a candidate fusion.
        pre_nms_top_n: Maximum number of cells before the first non-maximum suppression. With a
            candidate fusion, it takes the cells with the highest objectness; without, the cells
            with the highest scores.
        candidate_nms_iou: IoU threshold of the non-maximum suppression within a class that selects
            the candidates. None skips it and selects the cells with the highest scores.
        center_radius: Maximum distance, in strides, between an object's centre and a cell for the
            centre prior of SimOTA: see `assign_cells`.
        iou_weight: Weight of the IoU loss.
        score_threshold: Minimum score of a detection (exclusive).
        nms_iou: IoU threshold of non-maximum suppression within a class.
        max_detections: Maximum number of detections per frame.

    Raises:
        ConfigError: If ``width``, ``num_candidates``, ``pre_nms_top_n`` or ``max_detections`` is
            less than 1, ``refine`` or ``scores`` is unknown, or a fusion needs linked candidates.
    """

    base_parts = ("base",)

    def __init__(
        self,
        spec: FeatureSpec,
        num_classes: int,
        *,
        fusion: CandidateFusionFactories | None = None,
        refine: str = "scores",
        scores: str = "spatio_temporal",
        width: int = 256,
        num_candidates: int = 30,
        pre_nms_top_n: int = 1000,
        candidate_nms_iou: float | None = 0.75,
        center_radius: float = 2.5,
        iou_weight: float = 5.0,
        score_threshold: float = 0.001,
        nms_iou: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        if min(width, num_candidates, pre_nms_top_n, max_detections) < 1:
            msg = (
                "OneStageHead: width, num_candidates, pre_nms_top_n and max_detections must be at "
                f"least 1; found {width=}, {num_candidates=}, {pre_nms_top_n=}, {max_detections=}."
            )
            raise ConfigError(msg)
        candidate_spec = CandidateSpec(2 * width, branches=2)
        super().__init__(candidate_spec, num_classes, fusion=fusion, refine=refine, scores=scores)
        self.strides = spec.strides
        self.num_candidates = num_candidates
        self.pre_nms_top_n = pre_nms_top_n
        self.candidate_nms_iou = candidate_nms_iou
        self.center_radius = center_radius
        self.iou_weight = iou_weight
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.max_detections = max_detections
        self.base = nn.ModuleList(LevelHead(c, width, num_classes) for c in spec.channels)
        self.class_features = nn.ModuleList(_branch(width) for _ in spec.channels if fusion)
        has_objectness = bool(fusion) and self.fusion.spec.branches == 2
        self.st_objectness = nn.Linear(self.fusion.spec.branch_width, 1) if has_objectness else None
        if self.st_objectness is not None:
            nn.init.normal_(self.st_objectness.weight, std=0.01)
            nn.init.constant_(self.st_objectness.bias, _PRIOR_LOGIT)

    def detect(
        self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps
    ) -> Mapping[str, Tensor]:
        """Return the best cells of each frame as candidates.

        In training, further tensors are ``rows`` ``[F, N]``, the index of each candidate's cell,
        and the outputs for all ``A`` cells: ``cell_boxes`` ``[F, A, 4]``, ``objectness`` logits
        ``[F, A]`` and ``class_logits`` ``[F, A, K]``.
        """
        levels = [head(level) for head, level in zip(self.base, maps.levels, strict=True)]
        cells = Cells.of(maps, self.strides)
        raw_boxes = flat_cells([level.boxes for level in levels])
        boxes, objectness = cells.boxes(raw_boxes[..., :4]), raw_boxes[..., 4]
        class_logits = flat_cells([level.class_logits for level in levels])
        rows, is_valid = self._select(boxes, objectness, class_logits, cells.inside(sizes))
        found = boxes.detach().gather(1, rows.unsqueeze(2).expand(-1, -1, 4))
        p_object = objectness.detach().gather(1, rows).sigmoid()
        logits = class_logits.detach().gather(1, rows.unsqueeze(2).expand(-1, -1, self.num_classes))
        p_class = logits.sigmoid()
        confidences = torch.stack((p_class.amax(dim=2), p_object), dim=2)
        tensors = {
            "boxes": found,
            "scores": confidences.prod(dim=2).logit(eps=1e-6),
            "is_valid": is_valid,
            "confidences": confidences,
            "class_scores": p_class * p_object.unsqueeze(2),
        }
        if self.training or torch.is_grad_enabled():  # losses also of a frozen head
            tensors |= {"rows": rows, "cell_boxes": boxes}
            tensors |= {"objectness": objectness, "class_logits": class_logits}
        return tensors | prefixed("raw", self._raw(levels, rows))

    def _raw(self, levels: list[LevelOutputs], rows: Int[Tensor, "F N"]) -> dict[str, Tensor]:
        """Return the input of `features`; with `class_features`, the input maps of its layers."""
        raw = {"box": gather_cells([level.box_features for level in levels], rows)}
        if not self.class_features:
            return raw | {"class": gather_cells([level.class_features for level in levels], rows)}
        stems = {str(number): level.stem for number, level in enumerate(levels)}
        return raw | {"rows": rows} | prefixed("stem", stems)

    def features(self, raw: Mapping[str, Tensor]) -> Float[Tensor, "F N D2 1 1"]:
        """Return the class and box features of the candidates' cells."""
        own = raw.get("class")
        if own is None:
            stems = of_stage("stem", raw).values()
            maps = [net(stem) for net, stem in zip(self.class_features, stems, strict=True)]
            own = gather_cells(maps, raw["rows"])
        return torch.cat((own, raw["box"]), dim=2)[..., None, None]

    def detect_settings(self) -> Mapping[str, Any]:
        """Return the numbers and thresholds that select the candidates."""
        return {
            "strides": self.strides,
            "num_candidates": self.num_candidates,
            "pre_nms_top_n": self.pre_nms_top_n,
            "candidate_nms_iou": self.candidate_nms_iou,
            "has_fusion": bool(self.fusion.members),
        }

    @torch.no_grad()
    def _select(
        self,
        boxes: Float[Tensor, "F A 4"],
        objectness: Float[Tensor, "F A"],
        class_logits: Float[Tensor, "F A K"],
        is_inside: Bool[Tensor, "F A"],
    ) -> tuple[Int[Tensor, "F N"], Bool[Tensor, "F N"]]:
        """Return the index of each candidate's cell, best first, and whether it is valid."""
        logits, labels = class_logits.max(dim=2)
        scores = F.logsigmoid(objectness) + F.logsigmoid(logits)
        count = self.num_candidates if len(self.fusion.members) else self.pre_nms_top_n
        if self.candidate_nms_iou is None or not len(self.fusion.members):
            best = scores.masked_fill(~is_inside, -torch.inf).topk(min(count, scores.shape[1]))
            return best.indices, best.values > -torch.inf
        ranked = objectness.masked_fill(~is_inside, -torch.inf)
        top = ranked.topk(min(self.pre_nms_top_n, scores.shape[1])).indices
        rows, is_valid = suppress(
            boxes.gather(1, top.unsqueeze(2).expand(-1, -1, 4)),
            scores.gather(1, top),
            labels.gather(1, top),
            is_inside.gather(1, top),
            self.candidate_nms_iou,
            min(self.num_candidates, scores.shape[1]),
        )
        return top.gather(1, rows), is_valid

    def frame_losses(self, frames: Selection, targets: ReferenceTargets) -> dict[str, Tensor]:
        """Return the result of `cell_losses`, with ``iou`` multiplied by its weight.

        The result is {} if the detector is frozen.
        """
        outputs = {name: frames.extra(name) for name in _CELL_OUTPUTS}
        if not any(output.requires_grad for output in outputs.values()):
            return {}
        losses = cell_losses(outputs, self._assign(frames, targets), targets)
        return losses | {"iou": self.iou_weight * losses["iou"]}

    def _assign(self, frames: Selection, targets: ReferenceTargets) -> Int[Tensor, "B A"]:
        """Return for each cell the row of its object in the target, or BACKGROUND or IGNORED.

        In frames without annotations, all cells are IGNORED.
        """
        cells = Cells.of(frames.frames.maps, self.strides)
        boxes, objectness, class_logits = (frames.extra(name).detach() for name in _CELL_OUTPUTS)
        matched = torch.full_like(objectness, IGNORED, dtype=torch.int64)
        for item, target in enumerate(targets):
            if target is not None:
                outputs = boxes[item], objectness[item], class_logits[item]
                matched[item] = assign_cells(cells, *outputs, target, self.center_radius)
        return matched

    def candidate_targets(
        self, candidates: Candidates, frames: Selection, targets: ReferenceTargets
    ) -> CellTargets:
        """Assign each candidate to the object that SimOTA assigns to its cell.

        If no new objectness is predicted, a candidate whose cell has no object is assigned to the
        object that it overlaps most, if their IoU is at least 0.6, as in YOLOV.
        """
        matched = self._assign(frames, targets).gather(1, frames.extra("rows"))
        is_by_overlap = self.st_objectness is None
        return candidate_targets(candidates, matched, targets, self.num_classes, is_by_overlap)

    def st_scores(self, fused: Candidates) -> Tensor:
        """Return objectness times class probability, ``[B, N, K]``.

        The class probability is predicted from fused features. The objectness is, too, if they have
        two branches; otherwise it is the per-frame objectness.
        """
        objectness = fused.factors[:, 0, :, 1:]
        if self.st_objectness is not None:
            objectness = self._st_objectness(fused).sigmoid().unsqueeze(2)
        return objectness * super().st_scores(fused)

    def _st_objectness(self, fused: Candidates) -> Float[Tensor, "B N"]:
        assert self.st_objectness is not None
        logits: Tensor = self.st_objectness(self.fusion.spec.split(fused.features[0])[1])
        return logits.squeeze(2).float()

    def st_losses(self, fused: Candidates, wanted: CandidateTargets) -> dict[str, Tensor]:
        """Return the losses of all predictions from fused features.

        They are the losses of `CandidateHead` and, if a new objectness is predicted,
        ``st_objectness``: binary cross-entropy divided by the number of candidates with an object.
        """
        losses = super().st_losses(fused, wanted)
        if self.st_objectness is not None:
            assert isinstance(wanted, CellTargets)
            logits, goal = self._st_objectness(fused), wanted.has_object.float()
            terms = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
            positives = wanted.has_object.sum().clamp(min=1)
            losses["st_objectness"] = (terms * wanted.is_judged).sum() / positives
        return losses

    def best(self, outputs: dict[str, Tensor]) -> Detections:
        """Return the detections after non-maximum suppression, in input pixels."""
        scores = outputs["scores"].float()
        boxes = outputs["boxes"].unsqueeze(2).expand(*scores.shape, 4)
        return detections_of(
            scores,
            boxes,
            outputs["is_valid"],
            self.score_threshold,
            self.nms_iou,
            self.max_detections,
        )


class LevelOutputs(NamedTuple):
    """Outputs of `LevelHead` for one level, each ``[F, C, h, w]``.

    Args:
        stem: Features from which both branches start.
        class_features: Features of the class branch.
        box_features: Features of the box branch.
        class_logits: ``K`` channels, float32.
        boxes: 5 channels: raw ``(x, y, w, h)``, which `Cells.boxes` decodes, and the objectness
            logit, float32.
    """

    stem: Tensor
    class_features: Tensor
    box_features: Tensor
    class_logits: Tensor
    boxes: Tensor


class LevelHead(nn.Module):
    """The decoupled head of one level: a stem, a class branch and a box branch.

    The last layers run in float32 even under autocast, because half precision is too coarse for
    coordinates and for differences between the scores of neighbouring cells.

    Args:
        in_channels: Channels of the level.
        width: Channels of each branch.
        num_classes: Number of classes.
    """

    def __init__(self, in_channels: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.stem = conv_block(in_channels, width, 1)
        self.class_branch, self.box_branch = _branch(width), _branch(width)
        self.class_out = nn.Conv2d(width, num_classes, kernel_size=1)
        self.box_out = nn.Conv2d(width, 5, kernel_size=1)
        nn.init.constant_(self.class_out.get_parameter("bias"), _PRIOR_LOGIT)
        nn.init.zeros_(self.box_out.get_parameter("bias"))
        nn.init.constant_(self.box_out.get_parameter("bias")[4:], _PRIOR_LOGIT)

    def forward(self, x: Float[Tensor, "F C h w"]) -> LevelOutputs:
        """Return the outputs for each cell of the level."""
        stem = self.stem(x)
        class_features, box_features = self.class_branch(stem), self.box_branch(stem)
        with torch.autocast(x.device.type, enabled=False):
            class_logits = self.class_out(class_features.to(self.class_out.weight.dtype))
            boxes = self.box_out(box_features.to(self.box_out.weight.dtype))
        return LevelOutputs(stem, class_features, box_features, class_logits, boxes)


def _branch(width: int) -> nn.Sequential:
    return nn.Sequential(conv_block(width, width), conv_block(width, width))
