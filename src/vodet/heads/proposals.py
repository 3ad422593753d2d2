"""Which proposals are trained on, which are remembered, and how windows are brought together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vodet.heads.key_frames import complete_tubelets
from vodet.heads.linking import Tubelets
from vodet.heads.matching import Assigner
from vodet.structures import Target


@dataclass(frozen=True)
class Sample:
    """RoIs of one window that are trained on.

    Args:
        tubelets: Their boxes.
        labels: Their classes, ``num_classes`` for background, ``[S]``.
        objects: The boxes of their objects in the reference frame, ``[S, 4]``; of background 0.
    """

    tubelets: Tubelets
    labels: Int[Tensor, " S"]
    objects: Float[Tensor, "S 4"]


def draw_sample(
    tubelets: Tubelets,
    targets: Sequence[Target | None],
    reference: int,
    num_classes: int,
    assigner: Assigner,
) -> Sample:
    """Draw RoIs to train on, by the reference frame alone, from proposals and annotated tubelets.

    Args:
        tubelets: Proposals of a window.
        targets: Objects of each frame; None where they are not known.
        reference: Position of the reference frame, whose objects must be known.
        num_classes: Number of classes.
        assigner: Decides which proposals stand for objects, and draws.
    """
    annotated = complete_tubelets(targets, reference)
    target = targets[reference]
    if target is None:
        msg = "The objects of the reference frame are not known."
        raise ValueError(msg)
    candidates = tubelets.followed_by(annotated)
    matched = assigner.assign(candidates.boxes[reference], target)
    positive, negative = assigner.draw(matched)
    drawn = (positive | negative).nonzero()[:, 0]
    is_object, rows = positive[drawn], matched[drawn].clamp(min=0)
    labels = target["labels"].new_full(drawn.shape, num_classes)
    objects = candidates.boxes.new_zeros(len(drawn), 4)
    labels[is_object] = target["labels"][rows[is_object]]
    objects[is_object] = target["boxes"][rows[is_object]]
    return Sample(candidates[drawn], labels, objects)


def key_proposals(
    tubelets: Tubelets, targets: Sequence[Target | None], reference: int, count: int
) -> Tubelets:
    """Return the best ``count`` proposals, the last of them replaced by annotated tubelets."""
    annotated = complete_tubelets(targets, reference)
    annotated = annotated[:, :count]
    return tubelets[: count - annotated.shape[1]].followed_by(annotated)


def padded(
    tubelets: Sequence[Tubelets],
) -> tuple[Float[Tensor, "B T N 4"], Float[Tensor, "B N"], Bool[Tensor, "B N"]]:
    """Bring tubelets of several windows to one number; boxes, objectness and which are real.

    The number is at least one: no stage meets an empty tensor, and with distributed training each
    weight gets a gradient in every step.
    """
    most = max(1, *(len(item) for item in tubelets))
    boxes = [F.pad(item.boxes, (0, 0, 0, most - len(item))) for item in tubelets]
    objectness = [F.pad(item.objectness, (0, most - len(item))) for item in tubelets]
    lengths = torch.tensor([len(item) for item in tubelets], device=boxes[0].device)
    is_valid = torch.arange(most, device=lengths.device) < lengths.unsqueeze(1)
    return torch.stack(boxes), torch.stack(objectness), is_valid
