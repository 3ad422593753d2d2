"""Seq-NMS: links detections through a whole video, rescores and suppresses them as sequences.

W. Han et al., "Seq-NMS for Video Object Detection", arXiv 1602.08465, 2016.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from vodet.box_pairs import ious

_LINK_IOU = 0.5  # between detections of neighbouring frames; both values are from the paper
_SUPPRESS_IOU = 0.3  # between detections of one frame
_CHUNK = 1_000_000  # pairs of boxes compared at once, to limit the memory used

Rescore = Literal["mean", "max"]


def seq_nms(
    frames: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    rescore: Rescore = "mean",
) -> tuple[np.ndarray, np.ndarray]:
    """Link detections over time, rescore each sequence, and suppress detections that overlap it.

    Detections of one class in neighbouring frames are linked if their IoU is above 0.5. The width
    of a box is ``x2 - x1`` pixels, not ``x2 - x1 + 1``.
    The sequence of linked detections with the largest sum of scores is taken first. All of its
    detections get the score of the sequence, and other detections of the class that overlap them in
    the same frame with an IoU above 0.3 are removed. This is repeated until no detection is left.
    Detections without links therefore undergo ordinary NMS.

    Args:
        frames: Frame numbers, ``[N]`` int64; neighbouring frames differ by 1. The frames may
            belong to several videos if the numbers of different videos are at least 2 apart.
        boxes: xyxy in pixels, ``[N, 4]``.
        scores: ``[N]``, not negative; detections with score 0 are removed.
        labels: ``[N]`` int64.
        rescore: New score of a sequence: the ``mean`` or ``max`` of the scores of its detections.

    Returns:
        Indices of the detections that are kept, ascending, ``[n]`` int64, and their new scores,
        ``[n]`` float32.
    """
    order = np.lexsort((frames, labels))
    gaps = (np.diff(labels[order]) != 0) | (np.diff(frames[order]) > 1)
    kept, rescored = [np.empty(0, np.int64)], [np.empty(0)]
    for rows in np.split(order, np.flatnonzero(gaps) + 1):  # no links between these parts
        if rows.size:
            slots, padded_boxes, padded_scores = _pad(frames[rows], boxes[rows], scores[rows])
            sequences = _Sequences(padded_boxes, padded_scores)
            is_kept, new_scores = sequences.take_all(rescore)
            kept.append(rows[is_kept[slots]])
            rescored.append(new_scores[slots][is_kept[slots]])
    found = np.concatenate(kept)
    ascending = np.argsort(found)
    return found[ascending], np.concatenate(rescored)[ascending].astype(np.float32)


def _pad(
    frames: np.ndarray, boxes: np.ndarray, scores: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Arrange detections in arrays with ``n`` slots for each of ``T`` frames.

    Args:
        frames: Frame numbers, ascending, ``[N]``.
        boxes: ``[N, 4]``.
        scores: ``[N]``.

    Returns:
        The frame and the slot of each detection, the boxes ``[T, n, 4]``, and the scores
        ``[T, n]``, which are 0 in empty slots.
    """
    times = frames - frames[0]
    counts = np.bincount(times)
    places = np.arange(len(times)) - np.repeat(np.cumsum(counts) - counts, counts)
    padded_boxes = np.zeros((len(counts), counts.max(), 4))
    padded_scores = np.zeros(padded_boxes.shape[:2])
    padded_boxes[times, places] = boxes
    padded_scores[times, places] = scores
    return (times, places), padded_boxes, padded_scores


class _Sequences:
    """The sequences of linked detections of one class in consecutive frames.

    Args:
        boxes: The boxes in ``n`` slots for each of ``T`` frames, xyxy in pixels, ``[T, n, 4]``.
        scores: The scores, ``[T, n]``, 0 for slots without a detection.
    """

    def __init__(self, boxes: np.ndarray, scores: np.ndarray) -> None:
        self._scores = scores
        self._links = _overlap(boxes[:-1], boxes[1:], _LINK_IOU)  # [T - 1, n, n]
        self._rivals = _overlap(boxes, boxes, _SUPPRESS_IOU)  # [T, n, n]
        self._is_left = scores > 0
        # The best sequence that ends with each detection: its sum and its previous detection.
        self._sums = np.zeros_like(scores)
        self._before = np.full(scores.shape, -1)
        self._best = np.zeros(len(scores))  # the largest sum of each frame

    def take_all(self, rescore: Rescore) -> tuple[np.ndarray, np.ndarray]:
        """Rescore and suppress all sequences.

        Args:
            rescore: New score of a sequence: ``mean`` or ``max`` of the scores of its detections.

        Returns:
            Whether each detection is kept, and its new score, both ``[T, n]``.
        """
        kept, scores = np.zeros(self._scores.shape, bool), np.zeros_like(self._scores)
        self._update(0, len(scores) - 1)
        while self._best.max() > 0:
            times, places = self._best_sequence()
            members = self._scores[times, places]
            kept[times, places] = True
            scores[times, places] = members.mean() if rescore == "mean" else members.max()
            self._is_left[times] &= ~self._rivals[times, places]
            self._is_left[times, places] = False
            self._update(int(times[0]), int(times[-1]))
        return kept, scores

    def _best_sequence(self) -> tuple[np.ndarray, np.ndarray]:
        end = int(self._best.argmax())
        places = [int(self._sums[end].argmax())]
        while (before := self._before[end - len(places) + 1, places[-1]]) >= 0:
            places.append(int(before))
        return np.arange(end - len(places) + 1, end + 1), np.array(places[::-1])

    def _update(self, first: int, last: int) -> None:
        """Update the sums of scores after detections from ``first`` to ``last`` were removed.

        ``first`` and ``last`` are the first and last affected frame. In the frames after ``last``,
        the update stops at the first frame whose sums do not change.
        """
        for time in range(first, len(self._scores)):
            sums = self._scores[time].copy()
            if time:
                reached = self._links[time - 1] * self._sums[time - 1][:, None]
                before = reached.argmax(axis=0)
                carried = reached[before, np.arange(len(before))]
                self._before[time] = np.where(carried > 0, before, -1)
                sums += carried
            sums *= self._is_left[time]
            if time > last and np.array_equal(sums, self._sums[time]):
                return
            self._sums[time] = sums
            self._best[time] = sums.max()


def _overlap(boxes: np.ndarray, others: np.ndarray, above: float) -> np.ndarray:
    """Return whether pairs of boxes have an IoU above ``above``, ``[T, n, n]`` bool.

    Args:
        boxes: ``[T, n, 4]``; each box is compared with all boxes at the same index of ``others``.
        others: ``[T, n, 4]``.
        above: The IoU.
    """
    size = boxes.shape[1]
    result = np.zeros((len(boxes), size, size), bool)
    step = max(1, _CHUNK // size**2)
    for start in range(0, len(boxes), step):
        part = slice(start, start + step)
        result[part] = ious(boxes[part, :, None], others[part, None]) > above
    return result
