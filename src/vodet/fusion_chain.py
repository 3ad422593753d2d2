"""A chain of candidate fusions that acts as a single candidate fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from vodet.encodings import Candidates, CandidateSpec, EncodedFrames, State, of_stage, prefixed
from vodet.errors import ConfigError
from vodet.stages import CandidateFusion, CandidateFusionFactories, ReferenceTargets


class FusionChain(CandidateFusion):
    """Applies candidate fusions in order; an empty chain leaves the features unchanged.

    Args:
        spec: Shape of a candidate's features before the first fusion.
        fusions: Factory of each fusion, by name.

    Raises:
        ConfigError: If a fusion that implements `CandidateFusion.encode_candidates` is not the
            first fusion or is combined with a fusion that needs linked candidates, or if a name is
            already an attribute of ``nn.ModuleDict``.
    """

    def __init__(self, spec: CandidateSpec, fusions: CandidateFusionFactories) -> None:
        super().__init__()
        self.members = nn.ModuleDict()
        for name, factory in fusions.items():
            if hasattr(self.members, name):
                msg = (
                    f"A candidate fusion cannot be called {name!r}, because PyTorch reserves this "
                    "name: choose another name in model.head.fusion."
                )
                raise ConfigError(msg)
            fusion = factory(spec)
            if fusion.encodes_candidates and self.members:
                msg = (
                    f"The candidate fusion {name} must be the first in model.head.fusion, because "
                    "it encodes the candidates as the head finds them in each frame; found it "
                    f"after {', '.join(self.members)}."
                )
                raise ConfigError(msg)
            self.members[name] = fusion
            spec = fusion.spec
        self.spec = spec
        members = self._members().values()
        self.remembers = any(fusion.remembers for fusion in members)
        self.needs_links = any(fusion.needs_links for fusion in members)
        self.joins_frames = any(fusion.joins_frames for fusion in members)
        keys = [f.keys_per_frame for f in members if f.remembers or f.encodes_candidates]
        self.keys_per_frame = 0 if 0 in keys else max(keys, default=0)
        if self.needs_links and self.encodes_candidates:
            msg = (
                f"The candidate fusions {', '.join(self.members)} cannot be combined: the first "
                "encodes the candidates of each frame separately, but another needs candidates "
                "that are linked through the window. Remove one of them from model.head.fusion."
            )
            raise ConfigError(msg)

    def _members(self) -> dict[str, CandidateFusion]:
        return {name: cast("CandidateFusion", member) for name, member in self.members.items()}

    @property
    def encodes_candidates(self) -> bool:
        """Whether one of the fusions implements `encode_candidates`."""
        return any(fusion.encodes_candidates for fusion in self._members().values())

    def encode_candidates(self, candidates: Candidates) -> Mapping[str, Tensor]:
        """Return the tensors that all fusions encode, each named ``<fusion>.<tensor>``."""
        encoded: dict[str, Tensor] = {}
        for name, fusion in self._members().items():
            best = candidates.best(fusion.keys_per_frame or candidates.boxes.shape[2])
            encoded |= prefixed(name, fusion.encode_candidates(best))
        return encoded

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        """Return the initial states of all fusions, with tensors named ``<fusion>.<tensor>``."""
        state: dict[str, Tensor] = {}
        for name, fusion in self._members().items():
            state |= prefixed(name, fusion.begin(videos, frames))
        return state

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        """Apply the fusions in order; return the fused candidates and all new states."""
        after: dict[str, Tensor] = {}
        extras = candidates.extras
        for name, fusion in self._members().items():
            inputs = replace(candidates, extras=of_stage(name, extras))
            candidates, fusion_state = fusion(inputs, of_stage(name, state))
            after |= prefixed(name, fusion_state)
        return candidates.current, after

    def recall(
        self,
        state: State,
        history: Sequence[Candidates],
        targets: Sequence[ReferenceTargets],
        now: ReferenceTargets,
    ) -> State:
        """Return the states that all fusions compute from the history windows.

        Each fusion gets the candidates of the history after the previous fusions were applied.
        """
        recalled: dict[str, Tensor] = {}
        past, (*_, last) = history, (None, *self._members().values())
        for name, fusion in self._members().items():
            initial = of_stage(name, state)
            inputs = [
                replace(candidates, extras=of_stage(name, original.extras))
                for candidates, original in zip(past, history, strict=True)
            ]
            recalled |= prefixed(name, fusion.recall(initial, inputs, targets, now))
            if fusion is not last:  # no fusion uses the output of the last one
                with torch.no_grad():
                    past = [fusion(candidates, initial)[0] for candidates in inputs]
        return recalled
