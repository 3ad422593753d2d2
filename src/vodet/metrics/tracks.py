"""The annotated boxes of objects through their videos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vodet.structures import GroundTruth


@dataclass(frozen=True)
class Tracks:
    """Boxes with a track id, ordered by track, then by frame number; crowds are no objects.

    Args:
        rows: Rows of the boxes of the ground truth, ``[R]`` int64.
        tracks: The number of their track, from 0 over all videos, ``[R]`` int64.
        frame_numbers: Of the frames that they are in, ``[R]`` int64.
    """

    rows: np.ndarray
    tracks: np.ndarray
    frame_numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_tracks(self) -> int:
        """Number of tracks of all videos."""
        return int(self.tracks[-1]) + 1 if len(self) else 0


def tracks_of(ground_truth: GroundTruth) -> Tracks:
    """Order the boxes of a data set by track. A track belongs to one video."""
    rows = np.flatnonzero((ground_truth.track_ids >= 0) & ~ground_truth.iscrowd)
    frames = ground_truth.frames[rows]
    videos, numbers = ground_truth.videos[frames], ground_truth.frame_numbers[frames]
    track_ids = ground_truth.track_ids[rows]
    order = np.lexsort((numbers, track_ids, videos))
    starts = np.diff(videos[order], prepend=-1) != 0
    starts |= np.diff(track_ids[order], prepend=-1) != 0
    return Tracks(rows[order], np.cumsum(starts) - 1, numbers[order].astype(np.int64))
