"""Selects proposals and annotated objects as RoIs for training and for a long-term memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from vodet.heads.linking import Proposals
from vodet.heads.matching import Assigner
from vodet.structures import Target


@dataclass(frozen=True)
class Tubelets:
    """``K`` proposals or annotated objects of a window, each with a box in all ``T`` frames.

    Args:
        boxes: xyxy in input pixels, ``[T, K, 4]``.
        scores: Objectness logits in the reference frame, ``[K]``.
    """

    boxes: Float[Tensor, "T K 4"]
    scores: Float[Tensor, " K"]

    @staticmethod
    def of(proposals: Proposals) -> list[Tubelets]:
        """Return the valid proposals of each window, one `Tubelets` per window."""
        items = zip(proposals.boxes, proposals.scores, proposals.is_valid, strict=True)
        return [Tubelets(boxes[:, valid], scores[valid]) for boxes, scores, valid in items]

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: Int[Tensor, " k"] | slice) -> Tubelets:
        return Tubelets(self.boxes[:, rows], self.scores[rows])

    def followed_by(self, boxes: Float[Tensor, "T G 4"]) -> Tubelets:
        """Return these tubelets followed by annotated objects, whose scores are infinite.

        Args:
            boxes: Boxes of the annotated objects in each frame.
        """
        certain = self.scores.new_full((boxes.shape[1],), torch.inf)
        return Tubelets(torch.cat((self.boxes, boxes), 1), torch.cat((self.scores, certain)))


@dataclass(frozen=True)
class Sample:
    """RoIs of one window sampled for training.

    Args:
        tubelets: Boxes and scores of the ``S`` RoIs.
        labels: Target classes of the RoIs, ``[S]``; ``num_classes`` for background.
        objects: Box in the reference frame of the object that each RoI is matched to, ``[S, 4]``;
            0 for background.
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
    """Sample RoIs for training from the proposals and annotated objects of a window.

    RoIs are matched to the objects of the reference frame.

    Args:
        tubelets: Proposals of the window.
        targets: Objects of each frame; None for frames without annotations. If the reference frame
            is not annotated, the sample is empty.
        reference: Position of the reference frame in the window.
        num_classes: Number of classes.
        assigner: Matches RoIs to objects and samples RoIs.
    """
    target = targets[reference]
    if target is None:
        labels = torch.zeros_like(tubelets.scores[:0], dtype=torch.int64)
        return Sample(tubelets[:0], labels, tubelets.boxes[0, :0])
    candidates = tubelets.followed_by(complete_tubelets(targets, reference))
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
    """Return the best proposals and all annotated objects of a window, together up to ``count``.

    Args:
        tubelets: Proposals of a window, highest score first.
        targets: Objects of each frame; None for frames without annotations.
        reference: Position of the reference frame in the window.
        count: Maximum number of proposals and annotated objects.
    """
    annotated = complete_tubelets(targets, reference)
    annotated = annotated[:, :count].to(tubelets.boxes)
    return tubelets[: count - annotated.shape[1]].followed_by(annotated)


def complete_tubelets(targets: Sequence[Target | None], reference: int) -> Float[Tensor, "T G 4"]:
    """Return the objects that are annotated in every frame of a window.

    In a window of several frames, objects without a track id are left out, because they cannot be
    identified across frames. In a window of one frame, all objects are returned. Crowds are left
    out.

    Args:
        targets: Objects of each frame; None for frames without annotations.
        reference: Position of the reference frame.

    Returns:
        The boxes of these ``G`` objects in each of the ``T`` frames.
    """
    known = [target for target in targets if target is not None]
    if len(known) < len(targets):
        return torch.zeros(len(targets), 0, 4, device=known[0]["boxes"].device if known else None)
    own = known[reference]
    tracks = own["track_ids"][~own["iscrowd"]]
    if len(known) == 1:
        return own["boxes"][~own["iscrowd"]].unsqueeze(0)
    # [T, G, n]: whether object g of the reference frame is object n of frame t
    is_same = pad_sequence(
        [((tracks.unsqueeze(1) == t["track_ids"]) & ~t["iscrowd"]).T for t in known],
        batch_first=True,
    ).transpose(1, 2)
    is_complete = is_same.any(dim=2).all(dim=0) & (tracks >= 0)
    if not is_complete.any():
        return own["boxes"].new_zeros(len(targets), 0, 4)
    rows = is_same[:, is_complete].int().argmax(dim=2)
    return torch.stack([target["boxes"][row] for target, row in zip(known, rows, strict=True)])


def padded(tubelets: Sequence[Tubelets]) -> Proposals:
    """Stack the tubelets of several windows, padded to the same number per window.

    The number is at least 1, so that no stage gets an empty tensor and, in DDP, every weight gets a
    gradient in every step.
    """
    most = max(1, *(len(item) for item in tubelets))
    boxes = [F.pad(item.boxes, (0, 0, 0, most - len(item))) for item in tubelets]
    scores = [F.pad(item.scores, (0, most - len(item))) for item in tubelets]
    lengths = torch.tensor([len(item) for item in tubelets], device=boxes[0].device)
    is_valid = torch.arange(most, device=lengths.device) < lengths.unsqueeze(1)
    return Proposals(torch.stack(boxes), torch.stack(scores), is_valid)
