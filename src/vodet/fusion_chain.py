"""Candidate fusions one after the other, as a single one: what a head holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from vodet.encodings import Candidates, CandidateSpec, EncodedFrames, State, of_stage, prefixed
from vodet.errors import ConfigError
from vodet.stages import CandidateFusion, CandidateFusionFactories, Targets


class FusionChain(CandidateFusion):
    """Applies candidate fusions in order; without any, the reference frame is left as it is.

    Args:
        spec: Features of a candidate.
        fusions: What builds each fusion, by name.

    Raises:
        ConfigError: If one needs linked candidates and another encodes each frame's own, or if a
            name is one of the methods of a module.
    """

    def __init__(self, spec: CandidateSpec, fusions: CandidateFusionFactories) -> None:
        super().__init__()
        self.members = nn.ModuleDict()
        for name, factory in fusions.items():
            if hasattr(self.members, name):
                msg = f"A candidate fusion cannot be called {name!r}: choose another name."
                raise ConfigError(msg)
            fusion = factory(spec)
            self.members[name] = fusion
            spec = fusion.spec
        self.spec = spec
        members = self._members().values()
        self.remembers = any(fusion.remembers for fusion in members)
        self.needs_links = any(fusion.needs_links for fusion in members)
        self.joins_frames = any(fusion.joins_frames for fusion in members)
        keys = [f.keys_per_frame for f in members if f.remembers or f.encodes_candidates]
        self.keys_per_frame = max(keys, default=0) if all(keys) else 0
        linking = [name for name, fusion in self._members().items() if fusion.needs_links]
        encoding = [name for name, fusion in self._members().items() if fusion.encodes_candidates]
        if linking and encoding:
            msg = (
                f"The candidate fusion {linking[0]} needs candidates that are linked through the "
                f"window, and {encoding[0]} those of each frame alone: choose one of them."
            )
            raise ConfigError(msg)

    def _members(self) -> dict[str, CandidateFusion]:
        return {name: cast("CandidateFusion", member) for name, member in self.members.items()}

    @property
    def encodes_candidates(self) -> bool:
        """Whether one of the fusions does work on the candidates of each frame alone."""
        return any(fusion.encodes_candidates for fusion in self._members().values())

    def encode_candidates(self, candidates: Candidates) -> Mapping[str, Tensor]:
        """Return what the fusions encode, under their names."""
        encoded: dict[str, Tensor] = {}
        for name, fusion in self._members().items():
            best = candidates.best(fusion.keys_per_frame or candidates.boxes.shape[2])
            encoded |= prefixed(name, fusion.encode_candidates(best))
        return encoded

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        """Return the states of the fusions, under their names."""
        state: dict[str, Tensor] = {}
        for name, fusion in self._members().items():
            state |= prefixed(name, fusion.begin(videos, frames))
        return state

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        """Apply the fusions in order."""
        fused, after = self._through(self._members(), candidates, state)
        return fused.current, after

    def _through(
        self, members: Mapping[str, CandidateFusion], candidates: Candidates, state: State
    ) -> tuple[Candidates, State]:
        after: dict[str, Tensor] = {}
        extras = candidates.extras
        for name, fusion in members.items():
            own = replace(candidates, extras=of_stage(name, extras))
            candidates, fusion_state = fusion(own, of_stage(name, state))
            after |= prefixed(name, fusion_state)
        return candidates, after

    def recall(
        self, state: State, history: Sequence[Candidates], targets: Sequence[Targets], now: Targets
    ) -> State:
        """Let each fusion recall its state from what the fusions before it make of the history."""
        recalled: dict[str, Tensor] = {}
        before: dict[str, CandidateFusion] = {}
        for name, fusion in self._members().items():
            with torch.no_grad():
                inputs = [self._through(before, past, state)[0] for past in history]
            own = [
                replace(fused, extras=of_stage(name, past.extras))
                for fused, past in zip(inputs, history, strict=True)
            ]
            recalled |= prefixed(name, fusion.recall(of_stage(name, state), own, targets, now))
            before[name] = fusion
        return recalled
