from __future__ import annotations

import numpy as np

from metrics.tracked import found, moving_objects, noisy_detections, one_video
from vodet.metrics.confusion import confusion_matrix, match_any_class
from vodet.metrics.detection_table import DetectionTable

BOX, AWAY = [0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]


def test_counts_by_hand() -> None:
    truth = one_video([[BOX], [BOX, AWAY], [BOX]], labels=[[0], [1, 0], [1]], classes=2)
    rows = [(0, BOX, 0.9), (0, AWAY, 0.8), (1, BOX, 0.7), (1, AWAY, 0.5), (2, BOX, 0.2)]
    assert confusion_matrix(truth, found(rows), 0.3).tolist() == [[2, 0, 0], [1, 0, 1], [1, 0, 0]]


def test_the_own_class_comes_first() -> None:
    truth = one_video([[BOX]], labels=[[1]], classes=2)
    table = DetectionTable.cat([found([(0, BOX, 0.9)]), found([(0, BOX, 0.5)], label=1)])
    assert match_any_class(truth, table)[1].tolist() == [-1, 0]
    assert confusion_matrix(truth, table).tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_crowds_do_not_count() -> None:
    truth = one_video([[[0.0, 0, 100, 100]]], iscrowd=[[True]])
    assert not confusion_matrix(truth, found([(0, BOX, 0.9)])).any()
    assert confusion_matrix(one_video([[]]), found([(0, BOX, 0.9)])).tolist() == [[0, 0], [1, 0]]


def test_every_object_and_detection_is_counted_once() -> None:
    rng = np.random.default_rng(0)
    truth = moving_objects(rng, crowds=0.1)
    predictions = noisy_detections(rng, truth)
    predictions, matched = match_any_class(truth, predictions)
    matrix = confusion_matrix(truth, predictions, 0.0)
    objects = np.bincount(truth.labels[~truth.iscrowd], minlength=3)
    assert matrix[:-1].sum(axis=1).tolist() == objects.tolist()
    assert matrix[:-1, :-1].sum() == (matched >= 0).sum()
    assert 0 < len(predictions) - matrix[:, :-1].sum() < 200  # in crowds
