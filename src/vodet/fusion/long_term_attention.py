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

from vodet.encodings import KeyFrame, RoIs, RoISpec, TemporalMemory
from vodet.errors import ConfigError
from vodet.fusion.propagation import CANDIDATES, propagated
from vodet.fusion.relation import RelationAttention, geometry_embedding, relative_geometry

KEYS = ("memory", "window")
PROPAGATIONS = ("none", "replace", "center")


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
        num_key_frames: int = 10,
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
        return F.relu(self.fcs[0](rois.features[:, rois.reference].flatten(2)))

    def _best(self, x: Float[Tensor, "B N D"], rois: RoIs) -> list[KeyFrame]:
        boxes, count = rois.boxes[:, rois.reference], self.keys_per_frame
        valid = rois.is_valid[:, :count]
        return [
            KeyFrame(features[:count][is_valid], own[:count][is_valid])
            for features, own, is_valid in zip(x, boxes, valid, strict=True)
        ]

    def key_frames(self, rois: RoIs) -> list[KeyFrame]:
        """Return what is remembered of each reference frame: its best RoIs, before attention."""
        return self._best(self._embed(rois), rois)

    def forward(
        self, rois: RoIs, memories: Sequence[TemporalMemory]
    ) -> tuple[RoIs, list[TemporalMemory]]:
        """Attend from RoIs ``[B, T, N, C, s, s]`` to key frames; ``[B, 1, N, width, 1, 1]``.

        Raises:
            ConfigError: If a memory comes from a detector of another width.
        """
        x = self._embed(rois)
        best = self._best(x, rois)
        remembers = self.keys == "memory" and not self.training
        own = [(frame,) if remembers else () for frame in best]
        keys = _Keys.of([m.key_frames + frame for m, frame in zip(memories, own, strict=True)], x)
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
        embedding = self._geometry(boxes, keys.boxes)
        weights = x.new_zeros(len(x), 0, keys.features.shape[1])
        for stage in range(self.stages):
            if stage > 0:
                x = F.relu(self.fcs[stage](x))
            attention = self._attention(stage)
            bias = attention.bias(embedding, keys.is_key)
            count = CANDIDATES if stage == self.stages - 1 and self.propagate != "none" else 0
            gathered, weights = attention(x, keys.features, bias, count)
            x = x + keys.is_there * gathered
        if self.advanced_share > 0:
            x = self._attend_to_advanced(x, boxes, keys)
        return x, weights

    def _attend_to_advanced(
        self, x: Float[Tensor, "B N D"], boxes: Float[Tensor, "B N 4"], keys: _Keys
    ) -> Float[Tensor, "B N D"]:
        """Attend once more, to the best keys, ``a = relu(fc(a + attention(a, keys)))``."""
        advanced = keys.best(self.advanced_share)
        attention, last_attention = self._attention(-2), self._attention(-1)
        bias = attention.bias(self._geometry(advanced.boxes, keys.boxes), keys.is_key)
        gathered, _ = attention(advanced.features, keys.features, bias)
        features = F.relu(self.fcs[-1](advanced.features + gathered))
        bias = last_attention.bias(self._geometry(boxes, advanced.boxes), advanced.is_key)
        last, _ = last_attention(x, features, bias)
        attended: Tensor = x + keys.is_there * last
        return attended

    def _geometry(
        self, boxes: Float[Tensor, "B n 4"], keys: Float[Tensor, "B M 4"]
    ) -> Float[Tensor, "B n M d"] | None:
        layer = self._attention(0).geometry
        if layer is None:
            return None
        return geometry_embedding(relative_geometry(boxes, keys), layer.in_features)

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
        is_key: Whether it is no padding, ``[B, M]``; where an item has no key, its first padding
            counts as one, so that no softmax is over nothing.
        is_there: 1 for items that have keys, else 0, ``[B, 1, 1]``.
        frame_lengths: Number of RoIs of each key frame of each item.
    """

    features: Float[Tensor, "B M D"]
    boxes: Float[Tensor, "B M 4"]
    is_key: Bool[Tensor, "B M"]
    is_there: Float[Tensor, "B 1 1"]
    frame_lengths: list[list[int]]

    @staticmethod
    def of(frames: list[tuple[KeyFrame, ...]], like: Float[Tensor, "B N D"]) -> _Keys:
        """Join the key frames of each item; ``like`` says their width, type and device."""
        for frame in (frame for item in frames for frame in item):
            if frame.features.shape[1] != like.shape[2]:
                msg = (
                    f"The memory comes from another detector: expected {like.shape[2]} features "
                    f"of each RoI, found {frame.features.shape[1]}. A new video starts with "
                    "TemporalMemory()."
                )
                raise ConfigError(msg)
        no_features, no_boxes = like.new_zeros(0, like.shape[2]), like.new_zeros(0, 4)
        features = [
            torch.cat([no_features, *(frame.features for frame in item)]) for item in frames
        ]
        boxes = [torch.cat([no_boxes, *(frame.boxes for frame in item)]) for item in frames]
        lengths = [[len(frame.boxes) for frame in item] for item in frames]
        totals = torch.tensor([sum(item) for item in lengths], device=like.device).unsqueeze(1)
        most = max(1, *(sum(item) for item in lengths))
        is_key = torch.arange(most, device=like.device) < totals.clamp(min=1)
        return _Keys(
            _padded(features, most),
            _padded(boxes, most),
            is_key,
            (totals > 0).to(like.dtype).unsqueeze(2),
            lengths,
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
            frames.append(tuple(KeyFrame(features[part], boxes[part]) for part in parts))
        return _Keys.of(frames, self.features)


def _padded(items: Sequence[Tensor], length: int) -> Tensor:
    return torch.stack([F.pad(item, (0, 0, 0, length - len(item))) for item in items])


def _require(name: str, value: object, is_right: bool, expected: str) -> None:
    if not is_right:
        msg = f"LongTermAttention: {name} must be {expected}; found {value!r}."
        raise ConfigError(msg)
