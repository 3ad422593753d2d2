"""What the annotations do for the key frames of a training: no set is empty, boxes follow objects.

Source: D. Cores, V. M. Brea, M. Mucientes, "Short-term anchor linking and long-term self-guided
attention for video object detection", Image and Vision Computing, 2021, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_iou

from vodet.boxes import box_areas, clip_boxes
from vodet.encodings import KeyFrame
from vodet.structures import Target

MATCHING_IOU = 0.3


def complete_tubelets(targets: Sequence[Target | None], reference: int) -> Float[Tensor, "T G 4"]:
    """Return the objects that are annotated in every frame of a window.

    In a window of one frame these are all its objects, with or without track ids; in one of several
    frames those without are none.

    Args:
        targets: Objects of each frame; None where they are not known.
        reference: Position of the reference frame.

    Returns:
        Their boxes in each frame.
    """
    known = [target for target in targets if target is not None]
    if len(known) < len(targets):
        return torch.zeros(len(targets), 0, 4, device=known[0]["boxes"].device if known else None)
    own = known[reference]
    tracks = own["track_ids"][~own["iscrowd"]]
    if len(known) == 1:
        return own["boxes"][~own["iscrowd"]].unsqueeze(0)
    # [T, G, n] whether object G of the reference frame is object n of frame T
    is_same = pad_sequence(
        [((tracks.unsqueeze(1) == t["track_ids"]) & ~t["iscrowd"]).T for t in known],
        batch_first=True,
    ).transpose(1, 2)
    is_complete = is_same.any(dim=2).all(dim=0) & (tracks >= 0)
    if not is_complete.any():
        return own["boxes"].new_zeros(len(targets), 0, 4)
    rows = is_same[:, is_complete].int().argmax(dim=2)
    return torch.stack([target["boxes"][row] for target, row in zip(known, rows, strict=True)])


def follow_tracks(frame: KeyFrame, then: Target, now: Target, size: Int[Tensor, " 2"]) -> KeyFrame:
    """Move the RoIs of a key frame as the objects in them have moved since.

    A RoI with an IoU of at least 0.3 with an object moves as the upper left corner of the object's
    box does; it is clipped to the picture and dropped if nothing is left of it.

    Args:
        frame: RoIs of a key frame.
        then: Objects of the key frame.
        now: Objects of the current frame.
        size: ``(height, width)`` of the picture.
    """
    known = ((then["track_ids"] >= 0) & ~then["iscrowd"]).nonzero()[:, 0]
    is_same = then["track_ids"][known].unsqueeze(1) == now["track_ids"]
    is_same &= ~now["iscrowd"]
    if not is_same.numel() or not len(frame.boxes):
        return frame
    row_now = is_same.int().argmax(dim=1)
    movement = now["boxes"][row_now, :2] - then["boxes"][known, :2]
    movement = movement * is_same.any(dim=1, keepdim=True)
    iou, matched = box_iou(frame.boxes, then["boxes"][known]).max(dim=1)
    shift = movement[matched] * (iou >= MATCHING_IOU).unsqueeze(1)
    boxes = clip_boxes(frame.boxes + shift.repeat(1, 2), size)
    return replace(frame, boxes=boxes)[box_areas(boxes) > 0]
