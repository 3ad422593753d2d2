"""Fuses the detections of several views of a frame: a simple form of weighted boxes fusion.

After R. Solovyev, W. Wang, T. Gabruseva, "Weighted boxes fusion: Ensembling boxes from different
object detection models", arXiv 1910.13302, 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.ops import batched_nms, box_iou

from vodet.structures import Detections

_CLUSTER_IOU = 0.55  # from the paper


def fuse_views(views: Sequence[Detections], max_detections: int | None = None) -> Detections:
    """Fuse the detections of several views of a frame, class by class.

    The best remaining detection of any view starts a cluster, and all detections that overlap it
    with an IoU above 0.55 are set aside. This is repeated until no detection is left. Each
    detection set aside then joins the cluster whose first detection it overlaps most. Each cluster
    becomes one detection. Its box is the mean of the boxes in the cluster, weighted by their
    scores. For its score, each view contributes its best score in the cluster, or 0 if it has no
    detection there; the score is the mean of these values.

    The original weighted boxes fusion (arXiv 1910.13302) is more complex: it compares each box with
    the current fused box of a cluster, and uses several scores of one view in a cluster.

    Args:
        views: The detections of each view, in the pixel coordinates of the frame. There must be at
            least one view, and all boxes must have a positive area.
        max_detections: Maximum number of detections to keep, best first; None keeps all.

    Returns:
        The fused detections, best first; equal scores are in the order of the clusters. The
        detections of a single view are returned as they are, and ``max_detections`` is ignored.
    """
    labels = torch.cat([found["labels"] for found in views])
    if len(views) == 1 or not len(labels):
        return views[0]
    boxes = torch.cat([found["boxes"] for found in views])
    scores = torch.cat([found["scores"] for found in views])
    # In float64, since the class offsets of batched_nms and GPU products round float32 boxes.
    firsts = batched_nms(boxes.double(), scores.double(), labels, _CLUSTER_IOU)
    is_of_class = labels[:, None] == labels[firsts]
    clusters = (box_iou(boxes.double(), boxes[firsts].double()) * is_of_class).argmax(dim=1)
    counts = torch.tensor([len(found["labels"]) for found in views], device=labels.device)
    numbers = torch.arange(len(views), device=labels.device).repeat_interleave(counts)
    fused = _mean_scores(clusters, numbers, scores, len(firsts), len(views))
    best = fused.argsort(descending=True, stable=True)[:max_detections]
    return Detections(
        boxes=_mean_boxes(clusters, boxes, scores, len(firsts))[best],
        scores=fused[best],
        labels=labels[firsts[best]],
    )


def _mean_boxes(
    clusters: Int[Tensor, " n"],
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, " n"],
    num_clusters: int,
) -> Float[Tensor, "c 4"]:
    """Return the mean box of each cluster, weighted by the scores.

    Args:
        clusters: The cluster of each detection.
        boxes: The box of each detection.
        scores: The score of each detection.
        num_clusters: Number of clusters.
    """
    weights = one_hot(clusters, num_clusters).T * scores.double().clamp(min=1e-30)  # avoids 0 / 0
    return (weights @ boxes.double() / weights.sum(dim=1, keepdim=True)).to(boxes)


def _mean_scores(
    clusters: Int[Tensor, " n"],
    numbers: Int[Tensor, " n"],
    scores: Float[Tensor, " n"],
    num_clusters: int,
    num_views: int,
) -> Float[Tensor, " c"]:
    """Return the score of each cluster: the mean of the best scores that the views have in it.

    A view without a detection in the cluster counts as 0.

    Args:
        clusters: The cluster of each detection.
        numbers: The view of each detection.
        scores: The score of each detection.
        num_clusters: Number of clusters.
        num_views: Number of views.
    """
    best = scores.new_zeros(num_views * num_clusters)
    best = best.scatter_reduce(0, numbers * num_clusters + clusters, scores, "amax")
    return best.view(num_views, num_clusters).mean(dim=0)
