from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from metrics.tracked import found, moving_objects, one_video
from vodet.metrics.track_length import (
    GROUPS,
    track_length_average_precision,
    track_length_groups,
)


@pytest.mark.parametrize("seed", range(2))
def test_equals_counting(seed: int) -> None:
    truth = moving_objects(
        np.random.default_rng(seed), videos=3, frames=170, presence=(0.1, 0.5, 0.95), crowds=0.02
    )
    videos = truth.videos[truth.frames].tolist()
    tracks = [
        None if crowd or track < 0 else (video, track)
        for video, track, crowd in zip(
            videos, truth.track_ids.tolist(), truth.iscrowd.tolist(), strict=True
        )
    ]
    lengths = Counter(tracks)
    expected = [
        -1 if track is None else 0 if lengths[track] < 30 else 1 if lengths[track] < 150 else 2
        for track in tracks
    ]
    assert track_length_groups(truth).tolist() == expected
    assert all(expected.count(group) > 20 for group in (-1, 0, 1, 2))


@pytest.mark.parametrize(
    ("length", "name"),
    [(1, "short"), (29, "short"), (30, "medium"), (149, "medium"), (150, "long"), (151, "long")],
)
def test_each_object_is_in_one_group(length: int, name: str) -> None:
    frames = [[[0.0, 0.0, 10.0, 10.0]]] * length
    pause = [*frames[:1], [], [], *frames[1:]]  # does not count
    track_ids = [[3] * len(frame) for frame in pause]
    truth = one_video(pause, track_ids=track_ids)
    assert track_length_groups(truth).tolist() == [GROUPS.index(name)] * length


def test_two_boxes_of_a_track_in_a_frame_make_it_no_longer() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    truth = one_video([[box, box]] * 29, track_ids=[[0, 0]] * 29)
    assert track_length_groups(truth).tolist() == [0] * 58


def test_other_groups_are_ignored_and_false_detections_count_in_all() -> None:
    kept, brief = [0, 0, 99, 99], [200, 0, 299, 99]
    frames = [[kept, brief], *[[kept]] * 29]
    truth = one_video(frames, track_ids=[list(range(len(frame))) for frame in frames])
    rows = [(frame, kept, 0.5) for frame in range(15)]
    result = track_length_average_precision(
        truth, found([(0, brief, 0.7), (0, [700, 0, 799, 99], 0.6), *rows])
    )
    assert result["track_length/ap_50_short"] == result["track_length/ap_50_short/a"] == 1
    # A false one, then 15 of 30, the other one ignored.
    assert result["track_length/ap_50_medium"] == pytest.approx(0.5 * 15 / 16)
    assert np.isnan(result["track_length/ap_50_long"])
    assert result["track_length/share_medium"] == pytest.approx(30 / 31)
