"""Tubelet linking: joins an object's detections in neighbouring frames and rescores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from vodet.errors import ConfigError
from vodet.inference.seq_nms import seq_nms
from vodet.inference.tubelet_rescoring import rescore, rescore_online
from vodet.structures import Detections

# Takes the frame numbers [N], boxes [N, 4], scores [N] and labels [N] of N detections; returns the
# indices of the kept detections, ascending, and their new scores. The numbers of neighbouring
# frames differ by 1.
Linking = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
LINKINGS: Mapping[str, Linking] = {
    "seq_nms": seq_nms,
    "rescore": rescore,
    "rescore_online": rescore_online,
}


def check_linking(name: str) -> None:
    """Check that a name is ``none`` or a name in `LINKINGS`.

    Raises:
        ConfigError: If the name is unknown.
    """
    if name not in ("none", *LINKINGS):
        msg = f"tubelet_linking must be one of none, {', '.join(LINKINGS)}; found {name!r}."
        raise ConfigError(msg)


def reads_twice(name: str) -> bool:
    """Return whether a linking needs the detections of the whole video before the first result."""
    return name not in ("none", "rescore_online")


def link_video(detections: Sequence[Detections], linking: str) -> list[Detections]:
    """Link the detections of a whole video into tubelets, and rescore them.

    Args:
        detections: The detections of each frame, in the order of the frames.
        linking: A name in `LINKINGS`.

    Returns:
        The detections that are kept in each frame, with their new scores, best first. The tensors
        are on the CPU.
    """
    if not detections:
        return []
    counts = [len(found["scores"]) for found in detections]
    frames = np.repeat(np.arange(len(counts)), counts)
    boxes = torch.cat([found["boxes"] for found in detections]).cpu()
    scores = torch.cat([found["scores"] for found in detections]).float().cpu()
    labels = torch.cat([found["labels"] for found in detections]).cpu()
    rows, new_scores = LINKINGS[linking](frames, boxes.numpy(), scores.numpy(), labels.numpy())
    order = np.lexsort((-new_scores, frames[rows]))
    kept, new_scores = rows[order], new_scores[order]
    kept_counts = np.bincount(frames[kept], minlength=len(counts)).tolist()
    columns = boxes[kept], torch.from_numpy(new_scores), labels[kept]
    return [
        Detections(boxes=boxes, scores=scores, labels=labels)
        for boxes, scores, labels in zip(
            *(torch.split(column, kept_counts) for column in columns), strict=True
        )
    ]
