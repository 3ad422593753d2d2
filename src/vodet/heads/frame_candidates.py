"""Stores candidates in the extras of encoded frames, and reads them back for windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from vodet.encodings import Candidates, Selection, WindowBatch, of_stage
from vodet.fusion_chain import FusionChain

_TENSORS = ("boxes", "scores", "is_valid", "features", "confidences")


def encoded(candidates: Candidates) -> dict[str, Tensor]:
    """Return the candidates of ``F`` frames as tensors ``[F, N, ...]``, to be stored as extras."""
    return {
        "boxes": candidates.boxes[:, 0],
        "scores": candidates.scores[:, 0],
        "is_valid": candidates.is_valid[:, 0],
        "features": candidates.features[0],
        "confidences": candidates.factors[:, 0],
    }


def decoded(tensors: Mapping[str, Tensor], sizes: Tensor) -> Candidates:
    """Return the candidates of ``F`` single frames: the inverse of `encoded`."""
    return Candidates(
        features=(tensors["features"],),
        boxes=tensors["boxes"].unsqueeze(1),
        scores=tensors["scores"].unsqueeze(1),
        is_valid=tensors["is_valid"].unsqueeze(1),
        sizes=sizes,
        reference=0,
        linked=False,
        extras={},
        confidences=tensors["confidences"].unsqueeze(1),
    )


def encoded_candidates(frames: Selection) -> Candidates:
    """Return the candidates that `encoded` stored in the extras of each frame."""
    return decoded({name: frames.extra(name) for name in _TENSORS}, frames.sizes)


def with_support(
    candidates: Candidates,
    windows: WindowBatch,
    fusion: FusionChain,
    of_support: Callable[[Selection, int], Candidates],
) -> Candidates:
    """Return the candidates of windows with everything that the head's fusions use.

    Added are the tensors that the fusions encoded from each frame and, if a fusion uses them, the
    candidates of the support frames.

    Args:
        candidates: Candidates of the reference frames, or of all frames if they are linked.
        windows: The windows, with the extras of the head.
        fusion: The candidate fusions of the head.
        of_support: Function that returns the candidates of support frames, given the frames and the
            number of candidates per frame.
    """
    places = windows.places
    extras = {
        name: torch.stack([frames.extra(f"fusion.{name}") for frames in places], dim=1)
        for name in of_stage("fusion", windows.current.frames.extras)
    }
    candidates = replace(candidates, extras=extras)
    if candidates.linked or not fusion.joins_frames:
        return candidates
    count = candidates.boxes.shape[2]
    frames = [of_support(selection, count) for selection in places]
    frames[windows.reference] = candidates
    return replace(
        candidates,
        features=tuple(frame.features[0] for frame in frames),
        boxes=torch.cat([frame.boxes for frame in frames], dim=1),
        scores=torch.cat([frame.scores for frame in frames], dim=1),
        is_valid=torch.cat([frame.is_valid for frame in frames], dim=1),
        reference=windows.reference,
        confidences=torch.cat([frame.factors for frame in frames], dim=1),
    )
