"""The DETR head: a complete detector of the transformers library, with candidate fusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vodet.boxes import box_areas, clip_boxes
from vodet.encodings import Candidates, CandidateSpec, FeatureMaps, FeatureSpec, Selection
from vodet.errors import ConfigError
from vodet.heads.candidate_head import CandidateHead, CandidateTargets
from vodet.heads.matching import covered_shares
from vodet.heads.one_to_one import match_one_to_one
from vodet.heads.transformers_detector import TransformersDetector
from vodet.stages import CandidateFusionFactories, ReferenceTargets
from vodet.structures import Detections

_CROWD_SHARE = 0.5  # a candidate is not trained if a crowd region covers this share of it


class DetrHead(CandidateHead):
    """A DETR-type detector of the ``transformers`` library, run on each frame, as a head.

    It can be any such model with one sigmoid per class: RT-DETR, RT-DETRv2, D-FINE, DEIMv2,
    LW-DETR, RF-DETR, Deformable DETR and others. The queries with the highest scores are the
    candidates of a frame.
    The detector is trained with the loss and the matching that come with the model. Candidate
    fusions are trained with the losses of `CandidateHead`, which send no gradient to the detector.

    Args:
        spec: Levels of the maps, which are not used.
        num_classes: Number of classes.
        pretrained: Name of a model on the Hugging Face hub, or a folder, with weights.
        config: Values of the model's config, by name. With ``pretrained``, they replace the model's
            values. Without it, they must include a ``model_type``, and the weights are random.
        num_candidates: Number of queries with the highest scores that become the candidates of a
            frame.
        width: Number of features of a candidate. If the detector's queries have another number of
            features, a linear layer converts them for the candidate fusions.
        fusion: Candidate fusions by name, applied in order.
        refine: ``scores`` or ``boxes``, see `CandidateHead`.
        scores: ``both`` or ``spatio_temporal``, see `CandidateHead`.
        mean: Mean of each RGB channel, on a scale of 0 to 255, by which frames are normalised. None
            means the value in the preprocessing config of ``pretrained``, or ImageNet's mean if
            there is none.
        std: Standard deviation of each RGB channel; scale and None as for ``mean``.
        trusted: Whether weights in pickle files may be loaded, too; otherwise only safetensors
            files are loaded.
        score_threshold: Minimum score of a detection (exclusive).
        max_detections: Maximum number of detections per frame.

    Raises:
        ConfigError: If ``refine`` or ``scores`` is unknown, there is neither ``pretrained`` nor a
            ``model_type``, a fusion needs linked candidates, or ``transformers`` is not installed.
        CheckpointError: If the model cannot be read, or is not a detector.
    """

    needs_pixels = True
    uses_maps = False
    base_parts = ("model",)

    def __init__(
        self,
        spec: FeatureSpec,
        num_classes: int,
        *,
        pretrained: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
        num_candidates: int = 100,
        width: int = 256,
        fusion: CandidateFusionFactories | None = None,
        refine: str = "scores",
        scores: str = "both",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        trusted: bool = False,
        score_threshold: float = 0.0,
        max_detections: int = 100,
    ) -> None:
        super().__init__(
            CandidateSpec(width), num_classes, fusion=fusion, refine=refine, scores=scores
        )
        self.model = TransformersDetector(
            num_classes, pretrained=pretrained, config=config, mean=mean, std=std, trusted=trusted
        )
        converts = bool(fusion) and self.model.width != width
        self.projection = nn.Linear(self.model.width, width) if converts else nn.Identity()
        self.num_candidates = num_candidates
        self.score_threshold = score_threshold
        self.max_detections = max_detections

    @property
    def settings(self) -> Mapping[str, Any]:
        """Constructor arguments that rebuild the detector without reading ``pretrained``."""
        return self.model.settings

    @property
    def _detector_learns(self) -> bool:
        weights = self.model.parameters()
        return torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)

    def encode(
        self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps
    ) -> Mapping[str, Tensor]:
        """Return the candidates of each frame; in training, also its pixels for the losses."""
        assert pixels is not None  # no map fusion comes before this head
        kept = {"pixels": pixels} if self._detector_learns else {}
        if kept and self.training and self.st_classifier is None:
            return kept  # nothing uses candidates
        return {**super().encode(pixels, sizes, maps), **kept}

    def detect(
        self, pixels: Tensor | None, sizes: Tensor, maps: FeatureMaps
    ) -> Mapping[str, Tensor]:
        """Return the queries with the highest scores as candidates.

        Raises:
            ConfigError: If the detector has fewer than ``num_candidates`` queries.
        """
        assert pixels is not None
        logits, boxes, features = self.model(pixels)
        if logits.shape[1] < self.num_candidates:
            msg = (
                f"model.head.num_candidates must be at most {logits.shape[1]}, the number of "
                f"queries of the detector; found {self.num_candidates}."
            )
            raise ConfigError(msg)
        best, rows = logits.amax(dim=2).topk(self.num_candidates, dim=1)
        frame = torch.arange(len(rows), device=rows.device).unsqueeze(1)
        boxes = clip_boxes(boxes[frame, rows], sizes.unsqueeze(1))
        return {
            "boxes": boxes,
            "scores": best,
            "is_valid": box_areas(boxes) > 0,
            "confidences": best.sigmoid().unsqueeze(2).expand(-1, -1, 2),
            "class_scores": logits[frame, rows].sigmoid(),
            "raw.queries": features[frame, rows],
        }

    def features(self, raw: Mapping[str, Tensor]) -> Tensor:
        """Return the features of the queries, converted to the width of the fusions."""
        features: Tensor = self.projection(raw["queries"])
        return features[..., None, None]

    def detect_settings(self) -> Mapping[str, Any]:
        """Return the number of candidates and the settings of the detector."""
        return {"num_candidates": self.num_candidates, "model": self.model.settings}

    def frame_losses(self, frames: Selection, targets: ReferenceTargets) -> dict[str, Tensor]:
        """Return ``detector``, the loss that the model itself computes on the annotated frames.

        The result is {} if the detector is frozen.
        """
        if not self._detector_learns:
            return {}
        rows = [row for row, target in enumerate(targets) if target is not None]
        if not rows:  # a zero that reaches all weights, as other processes expect
            weights = [weight for weight in self.model.parameters() if weight.requires_grad]
            return {"detector": torch.stack([0 * weight.sum() for weight in weights]).sum()}
        known = [target for target in targets if target is not None]
        return {"detector": self.model.loss(frames.extra("pixels")[rows], known)}

    def candidate_targets(
        self, candidates: Candidates, frames: Selection, targets: ReferenceTargets
    ) -> CandidateTargets:
        """Assign each object to one candidate, by the per-frame scores and boxes.

        All other candidates are negative, because no non-maximum suppression removes duplicates;
        only candidates in crowd regions do not contribute to the loss.
        """
        boxes, is_valid = candidates.boxes[:, 0], candidates.is_valid[:, 0]
        class_scores = frames.extra("class_scores")
        matched = match_one_to_one(class_scores, boxes, is_valid, candidates.sizes, targets)
        scores, objects = torch.zeros_like(class_scores), torch.zeros_like(boxes)
        is_trained = torch.zeros_like(is_valid)
        for frame, target in enumerate(targets):
            if target is None:
                continue
            found = (matched[frame] >= 0).nonzero()[:, 0]
            rows = matched[frame, found]
            scores[frame, found, target["labels"][rows]] = 1
            objects[frame, found] = target["boxes"][rows]
            crowds = target["boxes"][target["iscrowd"]]
            is_crowd = covered_shares(boxes[frame], crowds) >= _CROWD_SHARE
            is_trained[frame] = is_valid[frame] & (~is_crowd | (matched[frame] >= 0))
        return CandidateTargets(scores, is_trained, objects, matched >= 0)

    def best(self, outputs: dict[str, Tensor]) -> Detections:
        """Return the detections of each frame, without non-maximum suppression.

        A detection is a pair of a candidate and a class, so a candidate may be several detections.
        """
        count = outputs["scores"].shape[2]
        scores = outputs["scores"].flatten(1)
        scores, pairs = scores.topk(min(self.max_detections, scores.shape[1]), dim=1)
        rows = (pairs // count).unsqueeze(2).expand(-1, -1, 4)
        return Detections(
            boxes=outputs["boxes"].gather(1, rows),
            scores=scores.masked_fill(scores <= self.score_threshold, 0),
            labels=pairs % count,
        )
