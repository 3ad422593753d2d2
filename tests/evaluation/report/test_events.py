from __future__ import annotations

import numpy as np

from metrics.tracked import found, one_video
from vodet.evaluation.report.analysis import Analysis, Run
from vodet.evaluation.report.events import find_events
from vodet.metrics.detection_table import DetectionTable
from vodet.structures import GroundTruth

BOX, AWAY, FAR = [0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0], [100.0, 0.0, 110.0, 10.0]


def analysis(truth: GroundTruth, predictions: DetectionTable, name: str = "run") -> Analysis:
    return Analysis(truth, Run(name, predictions, {}), 0.3)


def two_tracks(frames: int = 8) -> GroundTruth:
    return one_video(
        [[BOX, AWAY]] * frames, labels=[[0, 1]] * frames, track_ids=[[3, 4]] * frames, classes=2
    )


def test_misses_and_drop_outs_by_hand() -> None:
    truth = two_tracks()
    seen = [(frame, BOX, 0.9) for frame in (0, 1, 5, 7)]  # lost in 2 to 4 and in 6
    misses, drop_outs, alarms, switches = find_events([analysis(truth, found(seen))])
    (miss,) = misses.events
    assert (miss.label, miss.frames, miss.text) == (1, (0, 7), "not found in 8 of 8 frames")
    (lost,) = drop_outs.events  # the longest of the track
    assert (lost.label, lost.frames, lost.text) == (0, (2, 4), "lost in 3 of 8 frames")
    assert sorted(lost.focus) == [2, 3, 4]
    assert np.array_equal(lost.focus[2], BOX)
    assert alarms.events == switches.events == []


def test_false_alarms_by_hand() -> None:
    truth = two_tracks()
    rows = [(0, FAR, 0.8), (1, FAR, 0.95), (2, BOX, 0.9), (3, FAR, 0.1)]
    alarms = find_events([analysis(truth, found(rows))])[2]
    (event,) = alarms.events  # one for a video and a class; low scores do not count
    assert (event.frames, event.text) == ((1, 1), "background error, score 0.95")


def test_class_switches_by_hand() -> None:
    truth = two_tracks()
    rows = DetectionTable.cat(
        [
            found([(0, BOX, 0.9), (2, BOX, 0.6), (4, BOX, 0.6)]),
            found([(3, BOX, 0.7), (5, BOX, 0.8)], label=1),
        ]
    )
    switches = find_events([analysis(truth, rows)])[3]
    (event,) = switches.events
    assert event.label == 0
    assert event.frames == (4, 5)
    assert event.text == "a 0.60, then b 0.80; annotated as a"


def test_objects_without_tracks_and_crowds() -> None:
    truth = one_video([[BOX, FAR]] * 3, track_ids=[[-1, -1]] * 3, iscrowd=[[False, True]] * 3)
    misses, drop_outs, alarms, _ = find_events([analysis(truth, found([(1, FAR, 0.9)]))])
    assert [event.text for event in misses.events] == ["not found in 1 of 1 frames"] * 3
    assert drop_outs.events == alarms.events == []


def test_differences_by_hand() -> None:
    truth = two_tracks()
    first = analysis(truth, found([(0, BOX, 0.9), (1, BOX, 0.9)]), "alone")
    other = analysis(truth, found([(frame, BOX, 0.9) for frame in range(1, 6)]), "fused")
    gains, losses = find_events([first, other])
    assert gains.runs == losses.runs == (0, 1)
    assert [event.frames for event in gains.events] == [(2, 5)]
    assert [event.frames for event in losses.events] == [(0, 0)]


def test_the_number_of_events_is_bounded() -> None:
    boxes = [[[20.0 * n, 0.0, 20.0 * n + 10, 10.0] for n in range(30)]]
    truth = one_video(boxes, track_ids=[list(range(30))])
    misses = find_events([analysis(truth, found([]))])[0]
    assert len(misses.events) == 6
