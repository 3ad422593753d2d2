"""Long-term self-guided attention: candidates look at those of remembered key frames.

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
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from vodet.boxes import box_areas, clip_boxes
from vodet.encodings import Candidates, CandidateSpec, EncodedFrames, State
from vodet.errors import ConfigError, DataError
from vodet.fusion.relation import RelationAttention, geometry_embedding, relative_geometry
from vodet.stages import CandidateFusion, Targets
from vodet.structures import Target

PROPAGATIONS = ("none", "replace", "center")
MATCHING_IOU = 0.3  # from which a remembered candidate stands for an annotated object
PROPAGATED_FROM = 150  # best candidates of the current frame to which remembered ones are assigned
_BOXES_AT_ONCE = 32


class LongTermAttention(CandidateFusion):
    """Stages of a fully connected layer and attention to the candidates of key frames.

    ``x = relu(fc_i(x)); x = x + attention_i(x, keys)`` for each stage i; the keys have passed
    through ``fc_0`` alone and are the same in all stages. In evaluation the keys are the state and
    the frame's own best candidates; in training they come from the history of the clip.

    State of ``B`` videos, with ``K`` key frames of ``M`` candidates: ``features`` ``[B, K, M, D]``
    before attention, ``projected`` ``[B, K, M, P]``, what the attentions make of them, so that it
    is not computed for every frame anew, ``boxes`` ``[B, K, M, 4]``, ``is_valid`` ``[B, K, M]`` and
    ``processed`` ``[B]``, the number of frames so far.

    Args:
        spec: Features of a candidate.
        width: Number of features afterwards.
        group_width: Features of each head of the attention: 16 heads for a width of 1024.
        stages: Number of stages.
        advanced_share: Share of each key frame's candidates, the best, that first attend to all
            keys before the candidates attend to them once more (as in Relation Distillation
            Networks); 0 is without. 0.2 in the paper's code.
        geometry: Whether attention knows where the boxes lie.
        keys_per_frame: How many candidates of a key frame are kept, the best.
        num_key_frames: Most key frames of the state; the oldest is forgotten.
        key_frame_interval: A frame is remembered every so many frames.
        propagate: How remembered boxes follow the objects: ``none``; ``replace``: by the box that
            they are assigned to in the current frame; ``center``: moved to its centre.

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
        stages: int = 2,
        advanced_share: float = 0.0,
        geometry: bool = True,
        keys_per_frame: int = 75,
        num_key_frames: int = 5,
        key_frame_interval: int = 10,
        propagate: str = "none",
    ) -> None:
        super().__init__()
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
        self.spec = CandidateSpec(width)
        self.stages = stages
        self.advanced_share = advanced_share
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

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        """Return the state without key frames."""
        shape, device = (videos, self.num_key_frames, self.keys_per_frame), frames.sizes.device
        return {
            "features": torch.zeros(*shape, self.spec.width, device=device),
            "projected": torch.zeros(*shape, 2 * self.stages * self.spec.width, device=device),
            "boxes": torch.zeros(*shape, 4, device=device),
            "is_valid": torch.zeros(*shape, dtype=torch.bool, device=device),
            "processed": torch.zeros(videos, dtype=torch.int64, device=device),
        }

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        """Attend from the candidates of the reference frames to key frames.

        Raises:
            ConfigError: If the state comes from a detector of another width.
        """
        if state["features"].shape[3] != self.spec.width:
            msg = (
                f"The memory comes from another detector: expected {self.spec.width} features of "
                f"each candidate, found {state['features'].shape[3]}. A new video starts with "
                "VideoDetector.begin."
            )
            raise ConfigError(msg)
        current = candidates.current
        x = self._embed(current)
        if self.training:
            x, _ = self._attend(x, current.boxes[:, 0], _Keys.of(state))
            return candidates.fused(x[..., None, None]), state
        own = self._key_frame(x, current)
        x, weights = self._attend(x, current.boxes[:, 0], _Keys.of(state, own))
        if self.propagate != "none":
            boxes = propagated(state, weights, current, to_center=self.propagate == "center")
            state = {**state, "boxes": boxes}
        return candidates.fused(x[..., None, None]), self._push(state, own)

    def recall(
        self, state: State, history: Sequence[Candidates], targets: Sequence[Targets], now: Targets
    ) -> State:
        """Return the state with one key frame of each window of the history.

        Remembered boxes follow the objects that they match: see `follow_tracks`.

        Raises:
            ConfigError: If there is no history.
            DataError: If boxes shall follow objects that have no track ids.
        """
        if not history:
            msg = (
                "Long-term attention trains on further windows of each clip's video, found none: "
                "set data.history.windows=2."
            )
            raise ConfigError(msg)
        frames = []
        for past, then in zip(history, targets, strict=True):
            current = past.current
            frame = self._key_frame(self._embed(current), current)
            if self.propagate != "none":
                own_then, own_now = ([clip[0] for clip in clips] for clips in (then, now))
                frame |= follow_tracks(frame, own_then, own_now, past.sizes)
            frames.append(frame)
        recalled = {name: torch.stack([f[name] for f in frames], dim=1) for name in frames[0]}
        return {**state, **recalled}

    def _embed(self, current: Candidates) -> Float[Tensor, "B N D"]:
        """Return ``x0`` of the candidates of the reference frames."""
        return F.relu(self.fcs[0](current.features[0].flatten(2)))

    def _key_frame(self, x: Float[Tensor, "B N D"], current: Candidates) -> dict[str, Tensor]:
        """Return what is remembered of each reference frame: its best candidates."""
        count = self.keys_per_frame
        missing = max(count - x.shape[1], 0)
        best = F.pad(x[:, :count], (0, 0, 0, missing))
        stages = [self._attention(stage) for stage in range(self.stages)]
        return {
            "features": best.float(),
            "projected": torch.cat([stage.project(best) for stage in stages], dim=2).float(),
            "boxes": F.pad(current.boxes[:, 0, :count], (0, 0, 0, missing)),
            "is_valid": F.pad(current.is_valid[:, 0, :count], (0, missing)),
        }

    def _push(self, state: State, own: State) -> State:
        """Remember every few frames the current one, in the place of the oldest."""
        processed = state["processed"]
        place = processed // self.key_frame_interval % self.num_key_frames
        is_here = torch.arange(self.num_key_frames, device=place.device) == place.unsqueeze(1)
        is_here &= (processed % self.key_frame_interval == 0).unsqueeze(1)
        pushed = {}
        for name, new in own.items():
            is_new = is_here.view(*is_here.shape, *[1] * (new.ndim - 1))
            pushed[name] = torch.where(is_new, new.unsqueeze(1), state[name])
        return {**pushed, "processed": processed + 1}

    def _attend(
        self, x: Float[Tensor, "B N D"], boxes: Float[Tensor, "B N 4"], keys: _Keys
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B n KM"]]:
        """Return the attended candidates and how the last stage weighs the keys, for the best."""
        biases = self._biases(boxes, keys, range(self.stages))
        weights = x.new_zeros(len(x), 0, keys.features.shape[1])
        projected = keys.projected.to(x.dtype).chunk(self.stages, dim=2)
        for stage, bias in enumerate(biases):
            if stage > 0:
                x = F.relu(self.fcs[stage](x))
            attention = self._attention(stage)
            is_last = stage == self.stages - 1
            count = PROPAGATED_FROM if is_last and self.propagate != "none" else 0
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


@dataclass(frozen=True)
class _Keys:
    """Candidates of key frames that others attend to.

    Args:
        features: ``[B, K * M, D]``.
        boxes: ``[B, K * M, 4]``.
        projected: What the attentions of the stages make of the features, ``[B, K * M, P]``.
        is_valid: Which keys are there, ``[B, K, M]``.
    """

    features: Float[Tensor, "B KM D"]
    boxes: Float[Tensor, "B KM 4"]
    projected: Float[Tensor, "B KM P"]
    is_valid: Bool[Tensor, "B K M"]

    @staticmethod
    def of(state: State, own: State | None = None) -> _Keys:
        """Return the key frames of a state, and behind them those of the current frame."""
        names = ("features", "boxes", "projected", "is_valid")
        frames = [state[name] for name in names]
        if own is not None:
            frames = [torch.cat((state[name], own[name][:, None]), dim=1) for name in names]
        features, boxes, projected, is_valid = frames
        return _Keys(features.flatten(1, 2), boxes.flatten(1, 2), projected.flatten(1, 2), is_valid)

    @property
    def is_key(self) -> Bool[Tensor, "B KM"]:
        """Which keys count; where an item has none, its first does, so that no softmax is empty."""
        is_valid = self.is_valid.flatten(1)
        is_first = torch.arange(is_valid.shape[1], device=is_valid.device) == 0
        return is_valid | (is_first & ~is_valid.any(dim=1, keepdim=True))

    @property
    def is_there(self) -> Float[Tensor, "B 1 1"]:
        """1 for items that have keys, else 0."""
        return self.is_valid.flatten(1).any(dim=1).to(self.features.dtype).view(-1, 1, 1)

    def best(self, share: float) -> _Keys:
        """Return the first ``share`` of the keys of each key frame, at least one of each."""
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


@torch.no_grad()
def propagated(
    state: State, weights: Float[Tensor, "B n KM"], current: Candidates, *, to_center: bool
) -> Float[Tensor, "B K M 4"]:
    """Return remembered boxes that have followed their objects into the current frames.

    The candidates of each key frame are assigned to current ones, one to one, such that the sum of
    ``softmax(objectness) * exp(weight)`` is largest. The assignment is solved on the CPU.

    Args:
        state: Key frames of ``B`` videos.
        weights: How much each of the best current candidates attends to each remembered one; those
            of a video's key frames come first, frame after frame.
        current: The current candidates, best first.
        to_center: Move a box to the centre of the one it is assigned to; else it takes its place.
    """
    boxes, is_valid = state["boxes"], state["is_valid"]
    count, (_, frames, length) = weights.shape[1], is_valid.shape
    is_current = current.is_valid[:, 0, :count]
    logits = current.scores[:, 0, :count].masked_fill(~is_current, -math.inf)
    objectness = logits.softmax(dim=1).nan_to_num()
    remembered = weights[:, :, : frames * length].view(len(boxes), count, frames, length)
    value = (objectness[:, :, None, None] * remembered.exp()).transpose(1, 2)
    on_cpu = (value.float().cpu(), is_valid.cpu(), is_current.sum(dim=1).cpu())
    assigned = _assigned(*on_cpu).to(boxes.device)
    chosen = assigned.clamp(min=0).flatten(1).unsqueeze(2).expand(-1, -1, 4)
    target = current.boxes[:, 0].gather(1, chosen).view_as(boxes) if count else boxes
    if to_center:
        shift = (target[..., :2] + target[..., 2:] - boxes[..., :2] - boxes[..., 2:]) / 2
        target = boxes + torch.cat((shift, shift), dim=-1)
    return torch.where((assigned >= 0).unsqueeze(3), target, boxes)


def _assigned(
    value: Float[Tensor, "B K n M"], is_valid: Bool[Tensor, "B K M"], counts: Int[Tensor, " B"]
) -> Int[Tensor, "B K M"]:
    """Return the current candidate of each remembered one, -1 for none."""
    assigned = torch.full(is_valid.shape, -1)
    for item, frames in enumerate(is_valid):
        for number, valid in enumerate(frames):
            (keys,) = valid.nonzero(as_tuple=True)
            own = value[item, number, : counts[item], keys].numpy()
            rows, columns = linear_sum_assignment(own, maximize=True)
            assigned[item, number, keys[columns]] = torch.as_tensor(rows)
    return assigned


def follow_tracks(
    frame: State,
    then: Sequence[Target | None],
    now: Sequence[Target | None],
    sizes: Int[Tensor, "B 2"],
) -> dict[str, Tensor]:
    """Move remembered boxes as the objects in them have moved since, by their annotated tracks.

    A box with an IoU of at least 0.3 with an object moves as the upper left corner of the object's
    box does. It is clipped to the picture, and is not valid if nothing is left of it.

    Args:
        frame: ``boxes`` ``[B, M, 4]`` and ``is_valid`` ``[B, M]`` of one key frame of each clip.
        then: Objects of the key frames; None where they are not known.
        now: Objects of the current frames.
        sizes: ``(height, width)`` of the pictures.

    Returns:
        The boxes, and which are valid.

    Raises:
        DataError: If no object has a track id.
    """
    known = [target for target in (*then, *now) if target is not None]
    ids = torch.cat([target["track_ids"] for target in known]) if known else torch.zeros(0)
    if len(ids) and (ids < 0).all():
        msg = (
            "propagate needs to know which annotations are the same object: none of "
            f"{len(ids)} in this batch has an id_track. Add them, or set propagate=none."
        )
        raise DataError(msg)
    boxes = frame["boxes"].clone()
    for item, (before, after) in enumerate(zip(then, now, strict=True)):
        if before is not None and after is not None:
            boxes[item] = clip_boxes(boxes[item] + _shift(boxes[item], before, after), sizes[item])
    return {"boxes": boxes, "is_valid": frame["is_valid"] & (box_areas(boxes) > 0)}


def _shift(boxes: Float[Tensor, "M 4"], then: Target, now: Target) -> Float[Tensor, "M 4"]:
    known = ((then["track_ids"] >= 0) & ~then["iscrowd"]).nonzero()[:, 0]
    is_same = then["track_ids"][known].unsqueeze(1) == now["track_ids"]
    is_same &= ~now["iscrowd"]
    if not is_same.numel():
        return torch.zeros_like(boxes)
    row_now = is_same.int().argmax(dim=1)
    movement = now["boxes"][row_now, :2] - then["boxes"][known, :2]
    movement = movement * is_same.any(dim=1, keepdim=True)
    iou, matched = box_iou(boxes, then["boxes"][known]).max(dim=1)
    shift = movement[matched] * (iou >= MATCHING_IOU).unsqueeze(1)
    return torch.cat((shift, shift), dim=1)


def _require(name: str, value: object, is_right: bool, expected: str) -> None:
    if not is_right:
        msg = f"LongTermAttention: {name} must be {expected}; found {value!r}."
        raise ConfigError(msg)
