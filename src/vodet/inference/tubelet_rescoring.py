"""Linear tubelet rescoring: moves the score of a detection towards the mean score of its tubelet.

A blurred or partly hidden object often gets a low score. Its detections in neighbouring frames can
raise this score. Unlike Seq-NMS, rescoring removes no detection. The new score is
``(1 - weight) * own + weight * mean``. The formula and its default weight of 0.5 are vodet's
choice, not from a paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from vodet.box_pairs import ious
from vodet.id_lookup import pairs_of_equal_ids

_LINK_IOU = 0.5
_WEIGHT = 0.5


def rescore(
    frames: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    weight: float = _WEIGHT,
) -> tuple[np.ndarray, np.ndarray]:
    """Move the score of each detection towards the mean score of its whole tubelet.

    Args:
        frames: Frame numbers, ``[N]`` int64; neighbouring frames differ by 1. The frames may
            belong to several videos if the numbers of different videos are at least 2 apart.
        boxes: xyxy in pixels, ``[N, 4]``.
        scores: ``[N]``.
        labels: ``[N]`` int64.
        weight: Weight of the mean score; 0 leaves the scores unchanged.

    Returns:
        The indices of all detections, ``0`` to ``N - 1``, ``[N]`` int64, and their new scores,
        ``[N]`` float32.
    """
    first = _first_of_tubelets(link_neighbours(frames, boxes, labels))
    means = np.bincount(first, scores)[first] / np.bincount(first)[first]
    return np.arange(len(scores)), _mixed(scores, means, weight)


def rescore_online(
    frames: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    weight: float = _WEIGHT,
) -> tuple[np.ndarray, np.ndarray]:
    """Move the score of each detection towards the mean score of its tubelet up to its frame.

    This gives the same scores as `rescore_frame`, called frame by frame. The arguments and return
    values are the same as for `rescore`.
    """
    first = _first_of_tubelets(link_neighbours(frames, boxes, labels))
    order = np.lexsort((frames, first))
    sums = np.empty(len(scores))
    sums[order] = np.cumsum(scores[order], dtype=np.float64)
    sums -= sums[first] - scores[first]  # without earlier tubelets
    counts = frames - frames[first] + 1
    return np.arange(len(scores)), _mixed(scores, sums / counts, weight)


@dataclass(frozen=True)
class OpenTubelets:
    """The tubelets of a video that reach the last processed frame; `rescore_frame` extends them.

    Args:
        boxes: The last box of each tubelet, xyxy in pixels, ``[n, 4]``.
        labels: The label of each tubelet, ``[n]`` int64.
        sums: The sum of the detector's scores in each tubelet, ``[n]`` float64.
        counts: The number of detections of each tubelet, ``[n]`` int64.
    """

    boxes: np.ndarray
    labels: np.ndarray
    sums: np.ndarray
    counts: np.ndarray

    @staticmethod
    def none() -> OpenTubelets:
        """Return an instance without tubelets, for the start of a video."""
        empty = np.empty(0, np.int64)
        return OpenTubelets(np.empty((0, 4), np.float32), empty, np.empty(0), empty)


def rescore_frame(
    tubelets: OpenTubelets,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    weight: float = _WEIGHT,
) -> tuple[np.ndarray, OpenTubelets]:
    """Move the scores of a frame's detections towards the mean scores of their tubelets.

    The mean is taken over all frames of a tubelet up to and including this frame.

    Args:
        tubelets: The tubelets that reach the previous frame.
        boxes: Boxes of the detections in this frame, xyxy in pixels, ``[n, 4]``.
        scores: Their scores, ``[n]``.
        labels: Their labels, ``[n]`` int64.
        weight: Weight of the mean score; 0 leaves the scores unchanged.

    Returns:
        The new scores, ``[n]`` float32, and the tubelets that reach this frame.
    """
    number = len(tubelets.labels)
    frames = np.repeat([0, 1], [number, len(labels)])
    all_boxes, all_labels = np.vstack([tubelets.boxes, boxes]), np.append(tubelets.labels, labels)
    before = link_neighbours(frames, all_boxes, all_labels)[number:]
    sums, counts = scores.astype(np.float64), np.ones(len(scores), np.int64)
    is_linked = before >= 0
    sums[is_linked] += tubelets.sums[before[is_linked]]
    counts[is_linked] += tubelets.counts[before[is_linked]]
    return _mixed(scores, sums / counts, weight), OpenTubelets(boxes, labels, sums, counts)


def link_neighbours(frames: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Link each detection to at most one detection of the same class in the previous frame.

    No two detections are linked to the same earlier detection. Linked boxes have an IoU of at least
    0.5, computed with widths ``x2 - x1``. The links between two frames are chosen to maximise the
    sum of their IoUs.

    Args:
        frames: Frame numbers, as for `rescore`.
        boxes: xyxy in pixels, ``[N, 4]``.
        labels: ``[N]`` int64.

    Returns:
        For each detection, the index of the linked detection in the previous frame, or -1 if there
        is none, ``[N]`` int64.
    """
    before = np.full(len(frames), -1)
    rows, earlier, overlaps = _possible_links(frames, boxes, labels)
    is_ambiguous = (np.bincount(rows)[rows] > 1) | (np.bincount(earlier)[earlier] > 1)
    before[rows[~is_ambiguous]] = earlier[~is_ambiguous]
    ambiguous = np.flatnonzero(is_ambiguous)
    for links in np.split(ambiguous, np.flatnonzero(np.diff(frames[rows[ambiguous]])) + 1):
        chosen, chosen_earlier = _choose(rows[links], earlier[links], overlaps[links])
        before[chosen] = chosen_earlier
    return before


def _possible_links(
    frames: np.ndarray, boxes: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all pairs of detections that may be linked, sorted by frame.

    Returns:
        For each pair, the index of the later detection, the index of the detection in the previous
        frame, and the IoU of their boxes.
    """
    classes = labels.max(initial=0) + 1
    parts = [(frames[:0], frames[:0], np.empty(0))]
    keys = (frames - 1) * classes + labels, frames * classes + labels
    for rows, earlier in pairs_of_equal_ids(*keys):
        overlaps = ious(boxes[rows], boxes[earlier])
        is_link = overlaps >= _LINK_IOU
        parts.append((rows[is_link], earlier[is_link], overlaps[is_link]))
    rows, earlier, overlaps = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(frames[rows], kind="stable")
    return rows[order], earlier[order], overlaps[order]


def _choose(
    rows: np.ndarray, earlier: np.ndarray, overlaps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Choose one-to-one links with the largest sum of IoUs.

    Args:
        rows: The index of the later detection of each possible link.
        earlier: The index of the earlier detection of each possible link.
        overlaps: The IoU of each possible link.

    Returns:
        The later and the earlier detection of each chosen link.
    """
    unique_rows, row = np.unique(rows, return_inverse=True)
    unique_earlier, column = np.unique(earlier, return_inverse=True)
    table = np.zeros((len(unique_rows), len(unique_earlier)))
    table[row, column] = overlaps
    chosen = linear_sum_assignment(table, maximize=True)
    is_link = table[chosen] > 0
    return unique_rows[chosen[0][is_link]], unique_earlier[chosen[1][is_link]]


def _first_of_tubelets(before: np.ndarray) -> np.ndarray:
    """Return, for each detection, the index of the first detection of its tubelet.

    Args:
        before: For each detection, the result of `link_neighbours`.
    """
    first = np.where(before < 0, np.arange(len(before)), before)
    while not np.array_equal(further := first[first], first):  # each step doubles the distance
        first = further
    return first


def _mixed(scores: np.ndarray, means: np.ndarray, weight: float) -> np.ndarray:
    mixed: np.ndarray = ((1 - weight) * scores + weight * means).astype(np.float32)
    return mixed
