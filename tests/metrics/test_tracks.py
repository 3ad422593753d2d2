from __future__ import annotations

from dataclasses import replace

import numpy as np

from metrics.tracked import one_video
from vodet.metrics.tracks import tracks_of

BOX = [0.0, 0.0, 10.0, 10.0]


def test_tracks_of_two_videos_whose_frames_come_in_any_order() -> None:
    truth = replace(
        one_video(
            [[BOX, BOX], [BOX], [BOX, BOX, BOX]],
            track_ids=[[3, 1], [3], [-1, 3, 1]],
            iscrowd=[[False, False], [False], [False, False, True]],
        ),
        videos=np.array([0, 1, 0]),
        frame_numbers=np.array([8, 5, 2], np.int32),
    )
    tracks = tracks_of(truth)
    # Track 1 of video 0, which is a crowd in frame 2; track 3 of video 0; track 3 of video 1.
    assert tracks.rows.tolist() == [1, 4, 0, 2]
    assert tracks.tracks.tolist() == [0, 1, 1, 2]
    assert tracks.frame_numbers.tolist() == [8, 2, 8, 5]
    assert (len(tracks), tracks.num_tracks) == (4, 3)


def test_no_tracks() -> None:
    tracks = tracks_of(one_video([[BOX]], track_ids=[[-1]]))
    assert (len(tracks), tracks.num_tracks) == (0, 0)
