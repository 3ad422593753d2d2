"""Self-guided propagation: boxes of the memory follow their objects from answer to answer.

Source: D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided
attention for video object detection", Image and Vision Computing, 2021, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vodet.encodings import RoIs, TemporalMemory

CANDIDATES = 150  # best proposals of the current frame to which remembered RoIs are assigned


def propagated(
    memories: Sequence[TemporalMemory],
    weights: Float[Tensor, "B K M"],
    rois: RoIs,
    *,
    to_center: bool,
) -> list[TemporalMemory]:
    """Return memories whose boxes have followed their objects into the current frames.

    The RoIs of each key frame are assigned to current RoIs, one to one, such that the sum of
    ``softmax(objectness) * exp(weight)`` is largest.

    Args:
        memories: Memories of ``B`` videos.
        weights: How much each of the best CANDIDATES current RoIs attends to each remembered one;
            those of a video's key frames come first, frame after frame.
        rois: The current RoIs, best first.
        to_center: Move a box to the centre of the one it is assigned to; else it takes its place.
    """
    moved = []
    for item, memory in enumerate(memories):
        count = min(int(rois.is_valid[item].sum()), CANDIDATES)
        boxes = rois.boxes[item, rois.reference, :count]
        objectness = rois.objectness[item, :count].softmax(dim=0)
        lengths = [len(frame.boxes) for frame in memory.key_frames]
        value = objectness.unsqueeze(1) * weights[item, :count, : sum(lengths)].exp()
        frames = [
            replace(frame, boxes=_followed(frame.boxes, boxes, part, to_center))
            for frame, part in zip(
                memory.key_frames, torch.split(value, lengths, dim=1), strict=True
            )
        ]
        moved.append(replace(memory, key_frames=tuple(frames)))
    return moved


def _followed(
    boxes: Float[Tensor, "M 4"],
    current: Float[Tensor, "K 4"],
    value: Float[Tensor, "K M"],
    to_center: bool,
) -> Float[Tensor, "M 4"]:
    rows, columns = linear_sum_assignment(value.detach().cpu().numpy(), maximize=True)
    chosen = torch.as_tensor(columns, device=boxes.device)
    target = current[torch.as_tensor(rows, device=boxes.device)]
    if to_center:
        shift = (target[:, :2] + target[:, 2:] - boxes[chosen, :2] - boxes[chosen, 2:]) / 2
        target = boxes[chosen] + shift.repeat(1, 2)
    return boxes.index_copy(0, chosen, target)
