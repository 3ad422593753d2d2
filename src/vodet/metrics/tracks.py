"""The annotated boxes of a data set, sorted by track."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vodet.structures import GroundTruth


@dataclass(frozen=True)
class Tracks:
    """The ``R`` annotated boxes with a track id, sorted by track, then by frame number.

    Crowds are left out.

    Args:
        rows: Index of each box in ``GroundTruth.boxes``, ``[R]`` int64.
        tracks: Index of each box's track, counted from 0 over all videos, ``[R]`` int64.
        frame_numbers: Number of each box's frame in its video, ``[R]`` int64.
    """

    rows: np.ndarray
    tracks: np.ndarray
    frame_numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_tracks(self) -> int:
        """Number of tracks in all videos."""
        return int(self.tracks[-1]) + 1 if len(self) else 0


def tracks_of(ground_truth: GroundTruth) -> Tracks:
    """Return the boxes of a data set sorted by track; the same id in two videos is two tracks."""
    rows = np.flatnonzero((ground_truth.track_ids >= 0) & ~ground_truth.iscrowd)
    frames = ground_truth.frames[rows]
    videos, numbers = ground_truth.videos[frames], ground_truth.frame_numbers[frames]
    track_ids = ground_truth.track_ids[rows]
    order = np.lexsort((numbers, track_ids, videos))
    starts = np.diff(videos[order], prepend=-1) != 0
    starts |= np.diff(track_ids[order], prepend=-1) != 0
    return Tracks(rows[order], np.cumsum(starts) - 1, numbers[order].astype(np.int64))
