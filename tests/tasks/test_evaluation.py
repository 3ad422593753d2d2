from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metrics.tracked import found, moving_objects, noisy_detections, one_video
from vodet.metrics.vid import vid_average_precision
from vodet.tasks.evaluation import link_tubelets

BOX = [0.0, 0.0, 10.0, 10.0]


def test_only_neighbouring_frames_of_a_video_are_linked() -> None:
    # In time: frames 0 and 2 of one video, then 1 and 3 of another; image 104 is never answered.
    truth = replace(
        one_video([[]] * 5),
        videos=np.array([0, 1, 0, 1, 1]),
        frame_numbers=np.array([0, 0, 5, 7, 8], np.int32),
    )
    predictions = found([(frame, BOX, score) for frame, score in enumerate([0.2, 0.3, 0.4, 0.9])])
    linked = link_tubelets(truth, predictions)
    assert linked.image_ids.tolist() == [100, 101, 102, 103]
    assert linked.scores == pytest.approx([0.3, 0.6, 0.3, 0.6])
    best = link_tubelets(truth, predictions, rescore="max")
    assert best.scores == pytest.approx([0.4, 0.9, 0.4, 0.9])


def test_the_best_of_a_frame_comes_first() -> None:
    away = [50.0, 50.0, 60.0, 60.0]
    linked = link_tubelets(
        one_video([[], []]), found([(0, BOX, 0.1), (0, away, 0.3), (1, BOX, 0.9)])
    )
    assert linked.boxes[:, 0].tolist() == [0, 50, 0]
    assert linked.scores == pytest.approx([0.5, 0.3, 0.5])


def test_order_of_detections_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    truth = moving_objects(rng)
    predictions = noisy_detections(rng, truth)
    predictions.scores[:] = (rng.permutation(len(predictions)) + 1) / len(predictions)
    results = [
        vid_average_precision(truth, link_tubelets(truth, rows))
        for rows in (predictions, predictions[rng.permutation(len(predictions))])
    ]
    assert results[0] == pytest.approx(results[1], nan_ok=True)
    assert results[0] != pytest.approx(vid_average_precision(truth, predictions), nan_ok=True)


def test_no_detections() -> None:
    assert len(link_tubelets(one_video([[], []]), found([]))) == 0
    assert len(link_tubelets(one_video([]), found([]))) == 0
