"""Long-term self-guided attention: candidates attend to candidates of remembered key frames.

Source: D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided
attention for video object detection", Image and Vision Computing, 2021, as in the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vodet.encodings import Candidates, CandidateSpec, EncodedFrames, State
from vodet.errors import ConfigError
from vodet.fusion.propagation import (
    PROPAGATED_FROM,
    assigned_by_attention,
    assigned_by_links,
    follow_tracks,
    propagated,
)
from vodet.fusion.relation import RelationAttention, geometry_embedding, relative_geometry
from vodet.stages import CandidateFusion, ReferenceTargets

PROPAGATIONS = ("none", "replace", "center")
ASSIGNMENTS = ("attention", "linking")
_BOXES_AT_ONCE = 32


class LongTermAttention(CandidateFusion):
    """Candidates attend to the candidates of remembered key frames, in one or more layers.

    Layer i is ``x = relu(fc_i(x)); x = x + attention_i(x, keys)``. The keys have passed through
    ``fc_0`` only and are the same in all layers. In evaluation, the keys are the candidates of the
    key frames in the state and the best candidates of the current frame. In training, the keys are
    candidates from the history windows of the clip.

    The state of ``B`` videos, with ``K`` key frames of ``M`` candidates, consists of ``features``
    ``[B, K, M, D]`` before attention; ``projected`` ``[B, K, M, P]``, the keys and values of all
    layers; ``boxes`` ``[B, K, M, 4]``; ``is_valid`` ``[B, K, M]``; ``processed`` ``[B]``, the
    number of frames that were processed; and ``is_recalled`` ``[B]``, whether the key frames come
    from the history of a training clip. If they do, the candidates of the current frame are not
    keys.

    Args:
        spec: Shape of a candidate's features.
        width: Number of output features.
        group_width: Number of features per attention head: 64 gives 16 heads for a width of 1024.
        layers: Number of layers.
        advanced_share: Share of the best keys of each key frame that take part in an advanced stage
            after the layers, as in Relation Distillation Networks: these keys attend to all keys,
            then the current candidates attend to these keys. With 0, there is no advanced stage;
            the paper's code uses 0.2.
        geometry: Whether the attention uses the relative geometry of the boxes.
        keys_per_frame: Number of candidates that are stored of each key frame: the best.
        num_key_frames: Maximum number of key frames in the state; a new one replaces the oldest.
        key_frame_interval: Every ``key_frame_interval``-th frame of a video is a key frame.
        propagate: How remembered boxes follow their objects: ``none`` keeps the boxes, ``replace``
            replaces each box by the current box that it is assigned to, ``center`` moves each box
            to the centre of the assigned box.
        assignment: What a remembered box is assigned to from frame to frame, in evaluation, if it
            is propagated: with ``attention``, one-to-one to what attends to it (see
            `assigned_by_attention`); with ``linking``, to the linked candidate that it overlapped
            most in the previous frame (see `assigned_by_links`).
        value_std: Standard deviation of the initial weights of the attention's values. With 0, the
            layers start without attention, as plain fully connected layers.

    Raises:
        ConfigError: If an option is unknown or a number is out of range.
    """

    remembers = True
    joins_frames = False

    def __init__(
        self,
        spec: CandidateSpec,
        *,
        width: int = 1024,
        group_width: int = 64,
        layers: int = 2,
        advanced_share: float = 0.0,
        geometry: bool = True,
        keys_per_frame: int = 75,
        num_key_frames: int = 5,
        key_frame_interval: int = 10,
        propagate: str = "none",
        assignment: str = "attention",
        value_std: float = 0.01,
    ) -> None:
        super().__init__()
        choices = (
            ("propagate", propagate, PROPAGATIONS),
            ("assignment", assignment, ASSIGNMENTS),
        )
        for name, choice, options in choices:
            _require(name, choice, choice in options, f"one of {', '.join(options)}")
        _require("value_std", value_std, value_std >= 0, "at least 0")
        is_right = group_width > 0 and group_width % 8 == 0
        _require("group_width", group_width, is_right, "a multiple of 8")
        is_right = width > 0 and width % group_width == 0
        _require("width", width, is_right, f"a multiple of {group_width=}")
        _require("advanced_share", advanced_share, 0 <= advanced_share <= 1, "a share, 0 to 1")
        numbers = {
            "layers": layers,
            "keys_per_frame": keys_per_frame,
            "num_key_frames": num_key_frames,
            "key_frame_interval": key_frame_interval,
        }
        for name, number in numbers.items():
            _require(name, number, number >= 1, "at least 1")
        self.spec = CandidateSpec(width)
        self.layers = layers
        self.advanced_share = advanced_share
        self.keys_per_frame = keys_per_frame
        self.num_key_frames = num_key_frames
        self.key_frame_interval = key_frame_interval
        self.propagate = propagate
        self.assignment = assignment
        advanced = int(advanced_share > 0)
        widths = [spec.width, *[width] * (layers + advanced)]
        self.fcs = nn.ModuleList(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(widths))
        self.attentions = nn.ModuleList(
            RelationAttention(width, width // group_width, geometry=geometry, value_std=value_std)
            for _ in range(layers + 2 * advanced)
        )
        for name, weight in self.fcs.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            else:
                nn.init.kaiming_uniform_(weight, a=1)

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        """Return the initial state, without key frames."""
        shape, device = (videos, self.num_key_frames, self.keys_per_frame), frames.sizes.device
        return {
            "features": torch.zeros(*shape, self.spec.width, device=device),
            "projected": torch.zeros(*shape, 2 * self.layers * self.spec.width, device=device),
            "boxes": torch.zeros(*shape, 4, device=device),
            "is_valid": torch.zeros(*shape, dtype=torch.bool, device=device),
            "processed": torch.zeros(videos, dtype=torch.int64, device=device),
            "is_recalled": torch.zeros(videos, dtype=torch.bool, device=device),
        }

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        """Return the reference frames' candidates after attention to the keys, and the new state.

        Raises:
            ConfigError: If the state comes from a detector with another ``width``.
        """
        if state["features"].shape[3] != self.spec.width:
            msg = (
                f"The memory comes from another detector: expected {self.spec.width} features per "
                f"candidate (the width of LongTermAttention), found {state['features'].shape[3]}. "
                "Start each video with the memory from VideoDetector.begin of the same detector."
            )
            raise ConfigError(msg)
        current = candidates.current
        x = self._embed(current)
        own = self._key_frame(x, current)
        own["is_valid"] = own["is_valid"] & ~state["is_recalled"].unsqueeze(1)
        x, weights = self._attend(x, current.boxes[:, 0], _Keys.of(state, own))
        if self.propagate != "none" and not self.training:
            assigned = self._assigned(state, weights, current)
            boxes = propagated(state, assigned, current, to_center=self.propagate == "center")
            stays = state["is_recalled"][:, None, None, None]
            state = {**state, "boxes": torch.where(stays, state["boxes"], boxes)}
        return candidates.fused(x[..., None, None]), self._push(state, own)

    def _assigned(
        self, state: State, weights: Float[Tensor, "B n KM"], current: Candidates
    ) -> Int[Tensor, "B K M"]:
        """Return the current candidate that each remembered one is assigned to; -1 for none.

        Raises:
            ConfigError: If candidates have no links to the previous frame but should be assigned by
                them, or a detector is exported that assigns them by attention.
        """
        if self.assignment == "attention":
            if torch.compiler.is_exporting():
                msg = (
                    "LongTermAttention cannot be exported with assignment=attention, because a "
                    "graph cannot contain the Hungarian method. Set assignment=linking for linked "
                    "candidates, or propagate=none; neither needs a new training, but measure the "
                    "detector again with the new setting."
                )
                raise ConfigError(msg)
            return assigned_by_attention(state, weights, current)
        if current.previous_boxes is None:
            msg = (
                "LongTermAttention: assignment=linking needs candidates that are linked to the "
                "previous frame. Use model/head/fusion=sltnet and a window with past >= 1, or "
                "assignment=attention, or propagate=none."
            )
            raise ConfigError(msg)
        return assigned_by_links(state, current.previous_boxes, current.is_valid[:, 0])

    def recall(
        self,
        state: State,
        history: Sequence[Candidates],
        targets: Sequence[ReferenceTargets],
        now: ReferenceTargets,
    ) -> State:
        """Return the state with one key frame for each window of the history.

        Unless ``propagate`` is ``none``, the boxes of the key frames are moved to where their
        objects are in the clip's reference frame: see `follow_tracks`.

        Raises:
            ConfigError: If the clips have no history windows.
            DataError: If boxes have to be moved, but no object has a track id.
        """
        if not history:
            msg = (
                "Long-term attention needs training clips with history windows, found none: set "
                "data.history.windows, for example to 2."
            )
            raise ConfigError(msg)
        frames = []
        for past, then in zip(history, targets, strict=True):
            current = past.current
            frame = self._key_frame(self._embed(current), current)
            if self.propagate != "none":
                frame |= follow_tracks(frame, then, now, past.sizes)
            frames.append(frame)
        recalled = {name: torch.stack([f[name] for f in frames], dim=1) for name in frames[0]}
        return {**state, **recalled, "is_recalled": torch.ones_like(state["is_recalled"])}

    def _embed(self, current: Candidates) -> Float[Tensor, "B N D"]:
        """Return ``relu(fc_0(x))`` of the candidates of the reference frames."""
        return F.relu(self.fcs[0](current.features[0].flatten(2)))

    def _key_frame(self, x: Float[Tensor, "B N D"], current: Candidates) -> dict[str, Tensor]:
        """Return the best candidates of each reference frame as a key frame of the state.

        Args:
            x: Features of the candidates after the first fully connected layer.
            current: The candidates of the reference frames.
        """
        count = self.keys_per_frame
        missing = max(count - x.shape[1], 0)
        best = F.pad(x[:, :count], (0, 0, 0, missing))
        layers = [self._attention(layer) for layer in range(self.layers)]
        return {
            "features": best.float(),
            "projected": torch.cat([layer.project(best) for layer in layers], dim=2).float(),
            "boxes": F.pad(current.boxes[:, 0, :count], (0, 0, 0, missing)),
            "is_valid": F.pad(current.is_valid[:, 0, :count], (0, missing)),
        }

    def _push(self, state: State, own: State) -> State:
        """Return the state after the current frame; if it is a key frame, it replaces the oldest.

        Args:
            state: The state before the current frame.
            own: The current frame, from `_key_frame`.
        """
        processed = state["processed"]
        frames = state["is_valid"].shape[1]
        place = processed // self.key_frame_interval % frames
        is_key_frame = (processed % self.key_frame_interval == 0) & ~state["is_recalled"]
        is_here = torch.arange(frames, device=place.device) == place.unsqueeze(1)
        is_here &= is_key_frame.unsqueeze(1)
        pushed = {}
        for name, new in own.items():
            is_new = is_here.view(*is_here.shape, *[1] * (new.ndim - 1))
            pushed[name] = torch.where(is_new, new.unsqueeze(1), state[name])
        return {**state, **pushed, "processed": processed + 1}

    def _attend(
        self, x: Float[Tensor, "B N D"], boxes: Float[Tensor, "B N 4"], keys: _Keys
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B n KM"]]:
        """Apply all layers to the candidates of the reference frames.

        Returns:
            The features of the candidates, and attention weights of the best candidates in the last
            layer, from which remembered boxes are propagated.
        """
        biases = self._biases(boxes, keys, range(self.layers))
        weights = x.new_zeros(len(x), 0, keys.features.shape[1])
        projected = keys.projected.to(x.dtype).chunk(self.layers, dim=2)
        for layer, bias in enumerate(biases):
            if layer > 0:
                x = F.relu(self.fcs[layer](x))
            attention = self._attention(layer)
            needs_weights = self.propagate != "none" and self.assignment == "attention"
            is_last = layer == self.layers - 1
            count = PROPAGATED_FROM if is_last and needs_weights else 0
            gathered, weights = attention(x, projected[layer], bias, count)
            x = x + keys.is_there * gathered
        if self.advanced_share > 0:
            x = self._attend_to_advanced(x, boxes, keys)
        return x, weights

    def _attend_to_advanced(
        self, x: Float[Tensor, "B N D"], boxes: Float[Tensor, "B N 4"], keys: _Keys
    ) -> Float[Tensor, "B N D"]:
        """Return the candidates' features after the advanced stage: see ``advanced_share``.

        The best keys a are refined by ``a = relu(fc(a + attention(a, keys)))``; then the candidates
        attend to the refined keys.
        """
        advanced = keys.best(self.advanced_share)
        (bias,) = self._biases(advanced.boxes, keys, [-2])
        attention, last_attention = self._attention(-2), self._attention(-1)
        projected = attention.project(keys.features).to(x.dtype)
        gathered, _ = attention(advanced.features, projected, bias)
        features = F.relu(self.fcs[-1](advanced.features + gathered))
        (bias,) = self._biases(boxes, advanced, [-1])
        last, _ = last_attention(x, last_attention.project(features).to(x.dtype), bias)
        attended: Tensor = x + keys.is_there * last
        return attended

    def _biases(
        self, boxes: Float[Tensor, "B n 4"], keys: _Keys, numbers: Sequence[int]
    ) -> list[Float[Tensor, "B _ _ M"]]:
        """Return the biases of the logits for some attention modules: see `RelationAttention.bias`.

        The geometry of a few boxes is embedded at a time, so that it fits into the CPU cache.

        Args:
            boxes: Boxes of the queries.
            keys: The keys.
            numbers: Numbers of the attention modules.
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


@dataclass(frozen=True)
class _Keys:
    """The ``M`` candidates of each of ``K`` key frames, used as keys of the attention.

    Args:
        features: Features of the candidates, ``[B, K * M, D]``.
        boxes: Boxes of the candidates, ``[B, K * M, 4]``.
        projected: Keys and values of all layers, ``[B, K * M, P]``.
        is_valid: Which candidates exist; the others are padding, ``[B, K, M]``.
    """

    features: Float[Tensor, "B KM D"]
    boxes: Float[Tensor, "B KM 4"]
    projected: Float[Tensor, "B KM P"]
    is_valid: Bool[Tensor, "B K M"]

    @staticmethod
    def of(state: State, own: State | None = None) -> _Keys:
        """Return the keys of a state, followed by the keys of the current frame if it is given."""
        names = ("features", "boxes", "projected", "is_valid")
        frames = [state[name] for name in names]
        if own is not None:
            frames = [torch.cat((state[name], own[name][:, None]), dim=1) for name in names]
        features, boxes, projected, is_valid = frames
        return _Keys(features.flatten(1, 2), boxes.flatten(1, 2), projected.flatten(1, 2), is_valid)

    @property
    def is_key(self) -> Bool[Tensor, "B KM"]:
        """Which keys to attend to: the valid keys, or the first key if a video has no valid key.

        The exception keeps the softmax from being empty.
        """
        is_valid = self.is_valid.flatten(1)
        is_first = torch.arange(is_valid.shape[1], device=is_valid.device) == 0
        return is_valid | (is_first & ~is_valid.any(dim=1, keepdim=True))

    @property
    def is_there(self) -> Float[Tensor, "B 1 1"]:
        """1 for each video with at least one valid key, 0 for the others."""
        return self.is_valid.flatten(1).any(dim=1).to(self.features.dtype).view(-1, 1, 1)

    def best(self, share: float) -> _Keys:
        """Return the best keys of each key frame: ``share`` of its valid keys, rounded up.

        The result has no ``projected`` keys and values.
        """
        items, frames, length = self.is_valid.shape
        order = self.is_valid.int().argsort(dim=2, descending=True, stable=True)
        order = order[:, :, : math.ceil(share * length)]
        counts = torch.ceil(share * self.is_valid.sum(dim=2, keepdim=True).double())
        is_valid = torch.arange(order.shape[2], device=order.device) < counts
        starts = length * torch.arange(frames, device=order.device)
        rows = (order + starts[:, None]).flatten(1)
        item = torch.arange(items, device=order.device).unsqueeze(1)
        features, boxes = self.features[item, rows], self.boxes[item, rows]
        return _Keys(features, boxes, self.projected[item, rows, :0], is_valid)


def _require(name: str, value: object, is_right: bool, expected: str) -> None:
    if not is_right:
        msg = f"LongTermAttention: {name} must be {expected}; found {value!r}."
        raise ConfigError(msg)
