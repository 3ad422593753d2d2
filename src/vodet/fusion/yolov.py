"""YOLOV and YOLOV++: candidates attend to the candidates of all frames, weighted by scores.

Sources: Y. Shi, N. Wang, X. Guo, "YOLOV: Making Still Image Object Detectors Great at Video Object
Detection" (arXiv 2208.09686); Y. Shi, T. Zhang, X. Guo, "Practical Video Object Detection via
Feature Selection and Aggregation" (arXiv 2407.19650). Four choices are ours: the number of
candidates per frame is fixed, candidates with a grid of features pass through a layer before the
attention, a candidate without a similar key keeps its own features instead of an average, and the
memory keeps frames at regular intervals instead of random frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from vodet.encodings import Candidates, CandidateSpec, EncodedFrames, State
from vodet.errors import ConfigError
from vodet.stages import CandidateFusion, ReferenceTargets

_SCALE = 25.0  # of the cosine similarities


class YOLOV(CandidateFusion):
    """Attention to the candidates of all frames, then an average over similar candidates.

    The attention is computed from class features ``c`` and box features ``r``, and weighted by the
    class score ``s`` and the objectness ``o`` of the candidates n of all frames:

        A_c = softmax_n(25 cos(q_c, k_c) s_n);  A_r = softmax_n(25 cos(q_r, k_r) o_n)
        A = (A_c + A_r) / 2;  x = W_1 [A v_c ; v_c]
        B = softmax_n(mean over heads of A), only where mean over heads of cos(v_c, v_c) > 0.75
        y = W_2 [B x ; x]

    With ``objectness``, as in YOLOV++, a second aggregation computes the features from which the
    head predicts the objectness. It has separate layers, aggregates the values ``v_r`` of the box
    features, and averages candidates with a similarity above 0.99. The result then has two
    branches. If candidates have a single feature vector, it serves as both ``c`` and ``r``; if they
    have a single score, it serves as both ``s`` and ``o``.

    Keys and values are computed once per frame.

    If ``num_key_frames`` is positive, the keys of every ``key_frame_interval``-th frame are
    remembered as a key frame. Use it with ``window=single``, because the frames of a wider window
    would be keys twice. The state of ``B`` videos, with ``K`` key frames of ``M`` candidates,
    consists of ``projected`` ``[B, K, M, P]``, ``factors`` ``[B, K, M, 2]`` (class score and
    objectness) and ``is_key`` ``[B, K, M]``; ``processed`` ``[B]``, the number of frames that were
    processed; and ``is_recalled`` ``[B]``, whether the key frames come from the history of a
    training clip. If they do, no key frames are added.

    Args:
        spec: Shape of a candidate's features.
        width: Number of features of the queries, keys and values; the result has four times as
            many in each branch.
        heads: Number of attention heads.
        objectness: Whether there is a second aggregation for the objectness, as in YOLOV++.
        keys_per_frame: Number of candidates of each frame that are keys: the best.
        num_key_frames: Maximum number of key frames in the state; a new one replaces the oldest. 0
            means that nothing is remembered.
        key_frame_interval: Every ``key_frame_interval``-th frame of a video is a key frame.

    Raises:
        ConfigError: If ``width`` is not a multiple of ``heads``, or a number is out of range.
    """

    joins_frames = False  # it uses only what was encoded from support frames

    def __init__(
        self,
        spec: CandidateSpec,
        *,
        width: int = 1024,
        heads: int = 4,
        objectness: bool = False,
        keys_per_frame: int = 30,
        num_key_frames: int = 0,
        key_frame_interval: int = 10,
    ) -> None:
        super().__init__()
        positive = min(width, heads, keys_per_frame, key_frame_interval)
        if positive < 1 or num_key_frames < 0 or width % heads:
            msg = (
                "YOLOV: expected positive numbers (num_key_frames may be 0), and a width that is a "
                f"multiple of heads; found {width=}, {heads=}, {keys_per_frame=}, "
                f"{num_key_frames=}, {key_frame_interval=}."
            )
            raise ConfigError(msg)
        self.candidate_spec = spec
        self.keys_per_frame = keys_per_frame
        self.num_key_frames = num_key_frames
        self.key_frame_interval = key_frame_interval
        self.remembers = num_key_frames > 0
        in_features = spec.branch_width
        self.embed: nn.Module = nn.Identity()
        if spec.resolution > 1:
            self.embed = nn.Sequential(nn.Linear(in_features, width), nn.ReLU())
            in_features = width
        branches = 2 if objectness else 1
        self.spec = CandidateSpec(4 * width * branches, branches=branches)
        aggregations = [Aggregation(in_features, width, heads, 0.75)]
        if objectness:
            aggregations.append(Aggregation(in_features, width, heads, 0.99, of_boxes=True))
        self.aggregations = nn.ModuleList(aggregations)

    def _aggregations(self) -> list[Aggregation]:
        return [cast("Aggregation", module) for module in self.aggregations]

    def _project(self, features: Float[Tensor, "F N C _ _"]) -> Float[Tensor, "F N P"]:
        """Return each candidate's queries, keys and values of all aggregations, concatenated."""
        c, r = (self.embed(branch) for branch in self.candidate_spec.split(features))
        return torch.cat([module.project(c, r) for module in self._aggregations()], dim=2)

    def encode_candidates(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return the tensors that candidates need to serve as keys, padded to ``M`` per frame.

        They are ``projected`` ``[F, M, P]``, which contains keys and values, ``factors``
        ``[F, M, 2]``, the class score and the objectness, and ``is_key`` ``[F, M]``.
        """
        missing = self.keys_per_frame - candidates.boxes.shape[2]
        keys = {
            "projected": self._project(candidates.features[0]),
            "factors": candidates.factors[:, 0].float(),
        }
        padded = {name: F.pad(value, (0, 0, 0, missing)) for name, value in keys.items()}
        return padded | {"is_key": F.pad(candidates.is_valid[:, 0], (0, missing))}

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        """Return the initial state, without key frames; empty if ``num_key_frames`` is 0."""
        if not self.remembers:
            return {}
        shape, device = (videos, self.num_key_frames, self.keys_per_frame), frames.sizes.device
        features = 5 * len(self.aggregations) * self.spec.branch_width // 4
        return {
            "projected": torch.zeros(*shape, features, device=device),
            "factors": torch.zeros(*shape, 2, device=device),
            "is_key": torch.zeros(*shape, dtype=torch.bool, device=device),
            "processed": torch.zeros(videos, dtype=torch.int64, device=device),
            "is_recalled": torch.zeros(videos, dtype=torch.bool, device=device),
        }

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        """Return the reference frames' candidates with fused features, and the new state."""
        names = ("projected", "factors", "is_key")
        remembered = {name: [state[name]] if self.remembers else [] for name in names}
        keys, factors, is_key = (
            torch.cat([candidates.extras[name], *remembered[name]], dim=1).flatten(1, 2)
            for name in names
        )
        projected = self._project(candidates.current.features[0])
        modules = self._aggregations()
        parts = zip(
            modules,
            projected.chunk(len(modules), dim=2),
            keys.to(projected.dtype).chunk(len(modules), dim=2),
            strict=True,
        )
        fused = [module(own, key, factors, is_key) for module, own, key in parts]
        features = torch.cat(fused, dim=2)[..., None, None]
        after = self._push(candidates, state) if self.remembers else state
        return candidates.fused(features), after

    def _push(self, candidates: Candidates, state: State) -> State:
        """Return the state after the reference frames; a key frame replaces the oldest one."""
        own = self.encode_candidates(candidates.current.best(self.keys_per_frame))
        processed = state["processed"]
        frames = state["is_key"].shape[1]
        place = processed // self.key_frame_interval % frames
        is_due = (processed % self.key_frame_interval == 0) & ~state["is_recalled"]
        is_here = torch.arange(frames, device=place.device) == place.unsqueeze(1)
        is_here &= is_due.unsqueeze(1)
        pushed = {
            name: torch.where(
                is_here.view(*is_here.shape, *[1] * (new.ndim - 1)),
                new.unsqueeze(1).to(state[name].dtype),
                state[name],
            )
            for name, new in own.items()
        }
        return {**state, **pushed, "processed": processed + 1}

    def recall(
        self,
        state: State,
        history: Sequence[Candidates],
        targets: Sequence[ReferenceTargets],
        now: ReferenceTargets,
    ) -> State:
        """Return the state with one key frame for each window of the history."""
        if not self.remembers or not history:
            return state
        past = [
            self.encode_candidates(window.current.best(self.keys_per_frame)) for window in history
        ]
        recalled = {name: torch.stack([own[name] for own in past], dim=1) for name in past[0]}
        recalled = {name: value.to(state[name].dtype) for name, value in recalled.items()}
        return {**state, **recalled, "is_recalled": torch.ones_like(state["is_recalled"])}


class Aggregation(nn.Module):
    """Fuses candidates with keys: attention, then an average over keys with similar values.

    Args:
        in_features: Number of class features of a candidate, and number of its box features.
        width: Number of features of the queries, keys and values.
        heads: Number of attention heads.
        threshold: A key is similar to a candidate if the cosine similarity of their values,
            averaged over heads, is above this number.
        of_boxes: Whether the values are computed from the box features instead of the class
            features.
    """

    def __init__(
        self, in_features: int, width: int, heads: int, threshold: float, *, of_boxes: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.threshold = threshold
        self.of_boxes = of_boxes
        self.class_layer = nn.Linear(in_features, (2 if of_boxes else 3) * width, bias=False)
        self.box_layer = nn.Linear(in_features, (3 if of_boxes else 2) * width, bias=False)
        self.first = nn.Linear(2 * width, 2 * width)
        self.second = nn.Linear(4 * width, 4 * width)

    def project(
        self, c: Float[Tensor, "F N C"], r: Float[Tensor, "F N C"]
    ) -> Float[Tensor, "F N P"]:
        """Return ``q_c, k_c, q_r, k_r, v`` of candidates, concatenated.

        The queries q and the keys k have unit length in each head.

        Args:
            c: Class features of the candidates.
            r: Box features of the candidates.
        """
        projected = self.class_layer(c), self.box_layer(r)
        width = self.first.in_features // 2
        of_values = projected[self.of_boxes][..., 2 * width :]
        unit = [self._unit(part[..., : 2 * width], 2 * self.heads) for part in projected]
        return torch.cat((*unit, of_values), dim=2)

    @staticmethod
    def _unit(x: Float[Tensor, "*n D"], groups: int) -> Float[Tensor, "*n D"]:
        """Divide features into ``groups`` equal parts and scale each part to unit length."""
        grouped = x.unflatten(-1, (groups, -1))  # type: ignore[no-untyped-call]  # torch gives it no types
        return F.normalize(grouped, dim=-1).flatten(-2)

    def forward(
        self,
        own: Float[Tensor, "B N P"],
        keys: Float[Tensor, "B M P"],
        factors: Float[Tensor, "B M 2"],
        is_key: Bool[Tensor, "B M"],
    ) -> Float[Tensor, "B N D"]:
        """Return the fused features of the reference frames' candidates.

        The attention is applied to candidates and keys. Then each candidate is fused with the
        average of the keys that are similar to it.

        Args:
            own: Result of `project` for the candidates of the reference frames.
            keys: Result of `project` for the keys of all frames.
            factors: Class score and objectness of the keys.
            is_key: Which keys are valid.
        """
        count = own.shape[1]
        rows = torch.cat((own, keys), dim=1)
        weights = self._attention(rows, keys, factors, is_key)
        values, key_values = rows.chunk(5, dim=2)[4], keys.chunk(5, dim=2)[4]
        gathered = weights.to(values.dtype) @ self._split(key_values)
        x = self.first(torch.cat((gathered.transpose(1, 2).flatten(2), values), dim=2))
        similarity = self._similarity(values[:, :count], key_values)
        is_similar = (similarity > self.threshold) & is_key.unsqueeze(1)
        average = weights[:, :, :count].mean(dim=1).exp() * is_similar
        total = average.sum(dim=2, keepdim=True)
        average = (average / total.clamp(min=1e-9)).to(x.dtype)
        x, x_keys = x[:, :count], x[:, count:]
        of_similar = torch.where(total > 0, average @ x_keys, x)
        joined: Tensor = self.second(torch.cat((of_similar, x), dim=2))
        return joined

    def _attention(
        self,
        rows: Float[Tensor, "B R P"],
        keys: Float[Tensor, "B M P"],
        factors: Float[Tensor, "B M 2"],
        is_key: Bool[Tensor, "B M"],
    ) -> Float[Tensor, "B H R M"]:
        """Return the weights of each row for each key: the mean of class and box attention.

        They are float32, and 0 for windows without keys.
        """
        is_there = is_key.any(dim=1, keepdim=True)
        allowed = (is_key | ~is_there)[:, None, None]  # avoids a softmax over no keys
        q_c, _, q_r, _, _ = map(self._split, rows.float().chunk(5, dim=2))
        _, k_c, _, k_r, _ = map(self._split, keys.float().chunk(5, dim=2))
        weights = []
        for query, key, factor in ((q_c, k_c, factors[..., 0]), (q_r, k_r, factors[..., 1])):
            logits = _SCALE * (query @ key.transpose(2, 3)) * factor[:, None, None]
            weights.append(logits.masked_fill(~allowed, -torch.inf).softmax(dim=3))
        return (weights[0] + weights[1]) / 2 * is_there[:, None, None]

    def _similarity(
        self, values: Float[Tensor, "B N D"], keys: Float[Tensor, "B M D"]
    ) -> Float[Tensor, "B N M"]:
        """Return the cosine similarity of values with values of keys, averaged over the heads."""
        a, b = (self._unit(x.float(), self.heads) for x in (values, keys))
        return a @ b.transpose(1, 2) / self.heads

    def _split(self, x: Float[Tensor, "B n D"]) -> Float[Tensor, "B H n d"]:
        heads: Tensor = x.unflatten(2, (self.heads, -1))  # type: ignore[no-untyped-call]  # torch gives it no types
        return heads.transpose(1, 2)
