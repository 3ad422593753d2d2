"""Propagation of remembered boxes: how the boxes of key frames follow their objects.

Source: D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided
attention for video object detection", Image and Vision Computing, 2021, as in the authors' code.
The assignment by links is ours.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_iou

from vodet.boxes import box_areas, clip_boxes
from vodet.encodings import Candidates, State
from vodet.errors import DataError
from vodet.stages import ReferenceTargets
from vodet.structures import Target

MATCHING_IOU = 0.3  # minimum IoU to match a remembered candidate to an annotated object
PROPAGATED_FROM = 150  # number of best current candidates to which remembered ones are assigned


def propagated(
    state: State, assigned: Int[Tensor, "B K M"], current: Candidates, *, to_center: bool
) -> Float[Tensor, "B K M 4"]:
    """Return the boxes of the key frames, moved to where their objects are in the current frames.

    Args:
        state: Key frames of ``B`` videos.
        assigned: The current candidate that each remembered candidate is assigned to; -1 if it is
            assigned to none.
        current: The candidates of the current frames, highest score first.
        to_center: True moves each box to the centre of the current box that it is assigned to;
            False replaces it by this box.

    Returns:
        Boxes in input pixels; a box whose candidate is not assigned is unchanged.
    """
    boxes, now = state["boxes"], current.boxes[:, 0]
    if now.shape[1] == 0:
        return boxes
    chosen = assigned.clamp(min=0).flatten(1).unsqueeze(2).expand(-1, -1, 4)
    target = now.gather(1, chosen).view_as(boxes)
    if to_center:
        shift = (target[..., :2] + target[..., 2:] - boxes[..., :2] - boxes[..., 2:]) / 2
        target = boxes + torch.cat((shift, shift), dim=-1)
    return torch.where((assigned >= 0).unsqueeze(3), target, boxes)


@torch.no_grad()
def assigned_by_attention(
    state: State, weights: Float[Tensor, "B n KM"], current: Candidates
) -> Int[Tensor, "B K M"]:
    """Assign the candidates of each key frame one-to-one to current candidates.

    The sum of ``softmax(objectness) * exp(weight)`` is maximal. It is solved on the CPU.

    Args:
        state: Key frames of ``B`` videos.
        weights: Attention weights of the best current candidates for all keys; the keys in the
            state come first, key frame by key frame.
        current: The current candidates, best first.

    Returns:
        The current candidate of each remembered one; -1 for none.
    """
    is_valid = state["is_valid"]
    count, (videos, frames, length) = weights.shape[1], is_valid.shape
    is_current = current.is_valid[:, 0, :count]
    logits = current.scores[:, 0, :count].masked_fill(~is_current, -math.inf)
    objectness = logits.softmax(dim=1).nan_to_num()
    remembered = weights[:, :, : frames * length].view(videos, count, frames, length)
    value = (objectness[:, :, None, None] * remembered.exp()).transpose(1, 2)
    on_cpu = (value.float().cpu(), is_valid.cpu(), is_current.sum(dim=1).cpu())
    return _assigned(*on_cpu).to(is_valid.device)


@torch.no_grad()
def assigned_by_links(
    state: State, previous: Float[Tensor, "B N 4"], is_current: Bool[Tensor, "B N"]
) -> Int[Tensor, "B K M"]:
    """Assign each remembered candidate to the current candidate with the most similar past box.

    Current candidates are linked, so their boxes in the previous frame are known. A remembered
    candidate is assigned to the current candidate whose box in the previous frame has the highest
    IoU with it, if the IoU is at least 0.3. Several remembered candidates may be assigned to one
    current candidate. Only the best `PROPAGATED_FROM` current candidates are considered.

    Args:
        state: The remembered candidates of the key frames of ``B`` videos. Their boxes have been
            propagated to the previous frame.
        previous: Boxes of the current candidates in the previous frame.
        is_current: Which current candidates are valid.

    Returns:
        Index of the current candidate assigned to each remembered candidate; -1 if there is none.
    """
    is_valid, count = state["is_valid"], min(PROPAGATED_FROM, previous.shape[1])
    if count == 0:
        return torch.full_like(is_valid, -1, dtype=torch.int64)
    pairs = zip(state["boxes"].flatten(1, 2), previous[:, :count], strict=True)
    ious = torch.stack([box_iou(remembered, boxes) for remembered, boxes in pairs])
    best, chosen = ious.masked_fill(~is_current[:, None, :count], -1).max(dim=2)
    is_same = (best >= MATCHING_IOU).view_as(is_valid) & is_valid
    return chosen.view_as(is_valid).masked_fill(~is_same, -1)


def _assigned(
    value: Float[Tensor, "B K n M"], is_valid: Bool[Tensor, "B K M"], counts: Int[Tensor, " B"]
) -> Int[Tensor, "B K M"]:
    """Return the index of the current candidate assigned to each remembered one; -1 for none.

    Args:
        value: Value of assigning each remembered candidate to each current candidate.
        is_valid: Which remembered candidates exist.
        counts: Number of valid current candidates of each video.
    """
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
    then: ReferenceTargets,
    now: ReferenceTargets,
    sizes: Int[Tensor, "B 2"],
) -> dict[str, Tensor]:
    """Move the boxes of key frames to where their annotated objects are in the current frames.

    A box belongs to the object with which it has the highest IoU, if this is at least 0.3. It is
    shifted like the upper left corner of the object's annotated box, and then clipped to the
    picture. If it is empty after clipping, it becomes invalid.

    Args:
        frame: ``boxes`` ``[B, M, 4]`` and ``is_valid`` ``[B, M]`` of one key frame of each clip.
        then: Objects of the key frames; None for frames without annotations.
        now: Objects of the current frames; None for frames without annotations.
        sizes: ``(height, width)`` of each frame without its padding.

    Returns:
        The new ``boxes`` and ``is_valid``, of the same shapes.

    Raises:
        DataError: If there are annotated objects, but none has a track id.
    """
    known = [target for target in (*then, *now) if target is not None]
    ids = torch.cat([target["track_ids"] for target in known]) if known else torch.zeros(0)
    if len(ids) and (ids < 0).all():
        msg = (
            "LongTermAttention: propagate needs track ids, but none of the "
            f"{len(ids)} annotations in this batch has an id_track. Add track ids to the "
            "annotation file, or set propagate=none."
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
