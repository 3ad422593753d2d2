"""Long-term self-guided attention: RoIs look at the RoIs of remembered key frames.

Source: D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided
attention for video object detection", Image and Vision Computing, 2021, as in the authors' code.
With ``keys="window"`` and without geometry it is attention as in H. Wu et al., "Sequence Level
Semantics Aggregation for Video Object Detection" (arXiv 1907.06390).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from vodet.encodings import KeyFrame, RoIs, RoISpec, TemporalMemory
from vodet.errors import ConfigError
from vodet.fusion.propagation import CANDIDATES, propagated
from vodet.fusion.relation import RelationAttention, geometry_embedding, relative_geometry

KEYS = ("memory", "window")
PROPAGATIONS = ("none", "replace", "center")
_BOXES_AT_ONCE = 32


class LongTermAttention(nn.Module):
    """Stages of a fully connected layer and attention to the RoIs of key frames.

    ``x = relu(fc_i(x)); x = x + attention_i(x, keys)`` for each stage i; the keys have passed
    through ``fc_0`` alone and are the same in all stages. In evaluation the keys are the memory
    and the frame's own best RoIs; in training the key frames that were drawn for the clip.

    Args:
        spec: Features of a RoI.
        width: Number of features afterwards.
        group_width: Features of each head of the attention: 16 heads for a width of 1024.
        stages: Number of stages.
        advanced_share: Share of each key frame's RoIs, the best, that first attend to all keys
            before the RoIs attend to them once more (as in Relation Distillation Networks); 0 is
            without. 0.2 in the paper's code.
        geometry: Whether attention knows where the boxes lie.
        keys: ``memory`` or ``window``, see `LongTermFusion`.
        keys_per_frame: How many RoIs of a key frame are kept, the best.
        num_key_frames: Most key frames of the memory; the oldest is forgotten.
        key_frame_interval: A frame is remembered every so many answered frames.
        propagate: How boxes of the memory follow the objects: ``none``; ``replace``: by the box
            that they are assigned to in the current frame; ``center``: moved to its centre.

    Raises:
        ConfigError: If an option or a number cannot be.
    """

    def __init__(
        self,
        spec: RoISpec,
        *,
        width: int = 1024,
        group_width: int = 64,
        stages: int = 2,
        advanced_share: float = 0.0,
        geometry: bool = True,
        keys: str = "memory",
        keys_per_frame: int = 75,
        num_key_frames: int = 5,
        key_frame_interval: int = 10,
        propagate: str = "none",
    ) -> None:
        super().__init__()
        _require("keys", keys, keys in KEYS, f"one of {', '.join(KEYS)}")
        _require(
            "propagate", propagate, propagate in PROPAGATIONS, f"one of {', '.join(PROPAGATIONS)}"
        )
        is_right = group_width > 0 and group_width % 8 == 0
        _require("group_width", group_width, is_right, "a multiple of 8")
        is_right = width > 0 and width % group_width == 0
        _require("width", width, is_right, f"a multiple of {group_width=}")
        _require("advanced_share", advanced_share, 0 <= advanced_share <= 1, "a share, 0 to 1")
        numbers = {
            "stages": stages,
            "keys_per_frame": keys_per_frame,
            "num_key_frames": num_key_frames,
            "key_frame_interval": key_frame_interval,
        }
        for name, number in numbers.items():
            _require(name, number, number >= 1, "at least 1")
        if keys == "window":
            _require("propagate", propagate, propagate == "none", "none where keys=window")
        self.spec = RoISpec(width, 1)
        self.joins_frames = False
        self.stages = stages
        self.advanced_share = advanced_share
        self.keys = keys
        self.keys_per_frame = keys_per_frame
        self.num_key_frames = num_key_frames
        self.key_frame_interval = key_frame_interval
        self.propagate = propagate
        advanced = int(advanced_share > 0)
        widths = [spec.width, *[width] * (stages + advanced)]
        self.fcs = nn.ModuleList(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(widths))
        self.attentions = nn.ModuleList(
            RelationAttention(width, width // group_width, geometry=geometry)
            for _ in range(stages + 2 * advanced)
        )
        for name, weight in self.fcs.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            else:
                nn.init.kaiming_uniform_(weight, a=1)

    def _embed(self, rois: RoIs) -> Float[Tensor, "B N D"]:
        """Return ``x0`` of the RoIs of the reference frames."""
        return F.relu(self.fcs[0](rois.features[rois.reference].flatten(2)))

    def _best(self, x: Float[Tensor, "B N D"], rois: RoIs) -> list[KeyFrame]:
        boxes, count = rois.boxes[:, rois.reference], self.keys_per_frame
        valid = rois.is_valid[:, :count]
        return [
            self._projected(KeyFrame(features[:count][is_valid], own[:count][is_valid]))
            for features, own, is_valid in zip(x, boxes, valid, strict=True)
        ]

    def _projected(self, frame: KeyFrame) -> KeyFrame:
        """Add what the attentions of all stages make of the features.

        Raises:
            ConfigError: If the key frame comes from a detector of another width.
        """
        if frame.features.shape[1] != self.spec.width:
            msg = (
                f"The memory comes from another detector: expected {self.spec.width} features of "
                f"each RoI, found {frame.features.shape[1]}. A new video starts with "
                "TemporalMemory()."
            )
            raise ConfigError(msg)
        if frame.projected is not None:
            return frame
        stages = [self._attention(stage) for stage in range(self.stages)]
        projected = torch.cat([attention.project(frame.features) for attention in stages], dim=1)
        return replace(frame, projected=projected)

    def key_frames(self, rois: RoIs) -> list[KeyFrame]:
        """Return what is remembered of each reference frame: its best RoIs, before attention."""
        return self._best(self._embed(rois), rois)

    def forward(
        self, rois: RoIs, memories: Sequence[TemporalMemory]
    ) -> tuple[RoIs, list[TemporalMemory]]:
        """Attend from the RoIs of the reference frames to key frames; ``[B, N, width, 1, 1]``.

        Raises:
            ConfigError: If a memory comes from a detector of another width.
        """
        x = self._embed(rois)
        best = self._best(x, rois)
        remembers = self.keys == "memory" and not self.training
        frames = [
            (*map(self._projected, memory.key_frames), *([frame] if remembers else []))
            for memory, frame in zip(memories, best, strict=True)
        ]
        keys = _Keys.of(frames, best[0][:0])
        x, weights = self._attend(x, rois.boxes[:, rois.reference], keys)
        if remembers:
            if self.propagate != "none":
                memories = propagated(memories, weights, rois, to_center=self.propagate == "center")
            memories = [self._push(m, frame) for m, frame in zip(memories, best, strict=True)]
        return rois.fused(x[..., None, None]), list(memories)

    def _attend(
        self, x: Float[Tensor, "B N D"], boxes: Float[Tensor, "B N 4"], keys: _Keys
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B K M"]]:
        """Return the attended RoIs and how the last stage weighs the keys, for the best RoIs."""
        biases = self._biases(boxes, keys, range(self.stages))
        weights = x.new_zeros(len(x), 0, keys.features.shape[1])
        projected = keys.projected.chunk(self.stages, dim=2)
        for stage, bias in enumerate(biases):
            if stage > 0:
                x = F.relu(self.fcs[stage](x))
            attention = self._attention(stage)
            count = CANDIDATES if stage == self.stages - 1 and self.propagate != "none" else 0
            gathered, weights = attention(x, projected[stage], bias, count)
            x = x + keys.is_there * gathered
        if self.advanced_share > 0:
            x = self._attend_to_advanced(x, boxes, keys)
        return x, weights

    def _attend_to_advanced(
        self, x: Float[Tensor, "B N D"], boxes: Float[Tensor, "B N 4"], keys: _Keys
    ) -> Float[Tensor, "B N D"]:
        """Attend once more, to the best keys, ``a = relu(fc(a + attention(a, keys)))``."""
        advanced = keys.best(self.advanced_share)
        (bias,) = self._biases(advanced.boxes, keys, [-2])
        attention, last_attention = self._attention(-2), self._attention(-1)
        gathered, _ = attention(advanced.features, attention.project(keys.features), bias)
        features = F.relu(self.fcs[-1](advanced.features + gathered))
        (bias,) = self._biases(boxes, advanced, [-1])
        last, _ = last_attention(x, last_attention.project(features), bias)
        attended: Tensor = x + keys.is_there * last
        return attended

    def _biases(
        self, boxes: Float[Tensor, "B n 4"], keys: _Keys, numbers: Sequence[int]
    ) -> list[Float[Tensor, "B _ _ M"]]:
        """Return what is added to the logits of some of the attentions.

        Embeddings are made for a few boxes at a time, so that they stay in the cache.
        """
        attentions = [self._attention(number) for number in numbers]
        layer = attentions[0].geometry
        if layer is None:
            return [attention.bias(None, keys.is_key) for attention in attentions]
        parts = []
        for some in torch.split(boxes, _BOXES_AT_ONCE, dim=1):
            embedding = geometry_embedding(relative_geometry(some, keys.boxes), layer.in_features)
            parts.append([attention.bias(embedding, keys.is_key) for attention in attentions])
        return [torch.cat(biases, dim=2) for biases in zip(*parts, strict=True)]

    def _attention(self, number: int) -> RelationAttention:
        return cast("RelationAttention", self.attentions[number])

    def _push(self, memory: TemporalMemory, frame: KeyFrame) -> TemporalMemory:
        if memory.answered % self.key_frame_interval:
            return memory
        return replace(memory, key_frames=(*memory.key_frames, frame)[-self.num_key_frames :])


@dataclass(frozen=True)
class _Keys:
    """Key frames of a batch, padded to the same number of RoIs.

    Args:
        features: ``[B, M, D]``.
        boxes: ``[B, M, 4]``.
        projected: What the attentions of the stages make of the features, ``[B, M, P]``.
        is_key: Whether it is no padding, ``[B, M]``; where an item has no key, its first padding
            counts as one, so that no softmax is over nothing.
        is_there: 1 for items that have keys, else 0, ``[B, 1, 1]``.
        frame_lengths: Number of RoIs of each key frame of each item.
    """

    features: Float[Tensor, "B M D"]
    boxes: Float[Tensor, "B M 4"]
    projected: Float[Tensor, "B M P"]
    is_key: Bool[Tensor, "B M"]
    is_there: Float[Tensor, "B 1 1"]
    frame_lengths: list[list[int]]

    @staticmethod
    def of(frames: Sequence[tuple[KeyFrame, ...]], nothing: KeyFrame) -> _Keys:
        """Join the key frames of each item; ``nothing`` is one without RoIs."""
        joined = [_joined((nothing, *item)) for item in frames]
        totals = torch.tensor([len(item.boxes) for item in joined], device=nothing.boxes.device)
        most = max(1, int(totals.max()))
        return _Keys(
            _padded([item.features for item in joined]),
            _padded([item.boxes for item in joined]),
            _padded([_projection(item) for item in joined]),
            torch.arange(most, device=totals.device) < totals.clamp(min=1).unsqueeze(1),
            (totals > 0).to(nothing.features.dtype).view(-1, 1, 1),
            [[len(frame.boxes) for frame in item] for item in frames],
        )

    def best(self, share: float) -> _Keys:
        """Return the first ``share`` of the RoIs of each key frame, at least one of each."""
        frames = []
        for features, boxes, lengths in zip(
            self.features, self.boxes, self.frame_lengths, strict=True
        ):
            starts = accumulate(lengths, initial=0)
            parts = [
                slice(start, start + math.ceil(share * length))
                for start, length in zip(starts, lengths, strict=False)
            ]
            everything = KeyFrame(features, boxes, features[:, :0])
            frames.append(tuple(everything[part] for part in parts))
        return _Keys.of(frames, everything[:0])


def _joined(frames: Sequence[KeyFrame]) -> KeyFrame:
    return KeyFrame(
        torch.cat([frame.features for frame in frames]),
        torch.cat([frame.boxes for frame in frames]),
        torch.cat([_projection(frame) for frame in frames]),
    )


def _projection(frame: KeyFrame) -> Tensor:
    return cast("Tensor", frame.projected)


def _padded(items: Sequence[Tensor]) -> Tensor:
    """Bring tensors to the length of the longest, or to 1."""
    padded = pad_sequence(list(items), batch_first=True)
    return padded if padded.shape[1] else F.pad(padded, (0, 0, 0, 1))


def _require(name: str, value: object, is_right: bool, expected: str) -> None:
    if not is_right:
        msg = f"LongTermAttention: {name} must be {expected}; found {value!r}."
        raise ConfigError(msg)
