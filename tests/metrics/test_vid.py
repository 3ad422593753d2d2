from __future__ import annotations

import math

import numpy as np
import pytest

from metrics.tracked import found, moving_objects, noisy_detections, one_video
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.vid import vid_average_precision, vid_threshold
from vodet.structures import GroundTruth


def iou_of_pixels(box: list[float], other: list[float]) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0]) + 1
    height = min(box[3], other[3]) - max(box[1], other[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    sizes = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other)]
    return width * height / (sum(sizes) - width * height)


def half_in_one(box: list[float], regions: list[list[float]]) -> bool:
    size = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
    for region in regions:
        width = min(box[2], region[2]) - max(box[0], region[0]) + 1
        height = min(box[3], region[3]) - max(box[1], region[1]) + 1
        if width > 0 and height > 0 and width * height >= 0.5 * size:
            return True
    return False


def slow_matches(truth: GroundTruth, predictions: DetectionTable) -> list[tuple[int, int]]:
    """Label and object (-1 for none) of each detection that counts, best first."""
    matches = []
    for frame, image_id in enumerate(truth.image_ids):
        objects = range(truth.box_starts[frame], truth.box_starts[frame + 1])
        rows = np.flatnonzero(predictions.image_ids == image_id)
        taken = set()
        for row in sorted(rows, key=lambda row: (-predictions.scores[row], row)):
            best, best_iou = -1, -math.inf
            for object_ in objects:
                if object_ in taken or truth.labels[object_] != predictions.labels[row]:
                    continue
                if truth.iscrowd[object_]:
                    continue
                box = truth.boxes[object_].tolist()
                width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
                limit = min(0.5, width * height / ((width + 10) * (height + 10)))
                iou = iou_of_pixels(predictions.boxes[row].tolist(), box)
                if iou >= limit and iou > best_iou:
                    best, best_iou = object_, iou
            taken.add(best)
            regions = [
                truth.boxes[object_].tolist()
                for object_ in objects
                if truth.iscrowd[object_] and truth.labels[object_] == predictions.labels[row]
            ]
            if best < 0 and half_in_one(predictions.boxes[row].tolist(), regions):
                continue
            key = (-float(predictions.scores[row]), int(image_id), int(row))
            matches.append((key, int(predictions.labels[row]), best))
    return [(label, best) for _, label, best in sorted(matches)]


def slow_area(is_true: list[bool], number: int) -> float:
    """Follow VOCap of the development kit."""
    recall, precision, hits = [0.0], [0.0], 0
    for seen, true in enumerate(is_true, 1):
        hits += true
        recall.append(hits / number)
        precision.append(hits / seen)
    recall.append(1.0)
    precision.append(0.0)
    for point in reversed(range(len(precision) - 1)):
        precision[point] = max(precision[point], precision[point + 1])
    return sum(
        (recall[point] - recall[point - 1]) * precision[point] for point in range(1, len(recall))
    )


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_loop_over_frames_and_detections(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = moving_objects(rng, tracks=14, crowds=0.1)
    predictions = noisy_detections(rng, truth, per_object=3)
    result = vid_average_precision(truth, predictions)
    matches = slow_matches(truth, predictions)
    assert 0.5 * len(predictions) < len(matches) < 0.98 * len(predictions)
    numbers = [((truth.labels == label) & ~truth.iscrowd).sum() for label in (0, 1)]
    expected = [
        slow_area([best >= 0 for of, best in matches if of == label], numbers[label])
        for label in (0, 1)
    ]
    assert 0.2 < expected[0] < 0.9
    assert [result[f"vid/ap_50/class {label}"] for label in (0, 1)] == pytest.approx(expected)
    assert result["vid/ap_50"] == pytest.approx(np.mean(expected))
    assert math.isnan(result["vid/ap_50/class 2"])


def test_order_of_frames_and_detections_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    truth = moving_objects(rng)
    predictions = noisy_detections(rng, truth)
    predictions.scores[:] = rng.permutation(len(predictions)) / len(predictions)
    mixed = predictions[rng.permutation(len(predictions))]
    assert vid_average_precision(truth, mixed) == pytest.approx(
        vid_average_precision(truth, predictions), nan_ok=True
    )


def test_a_detection_takes_another_object_when_its_best_is_taken() -> None:
    truth = one_video([[[0, 0, 99, 99], [20, 0, 119, 99]]])
    predictions = found([(0, [5, 0, 104, 99], 0.9), (0, [6, 0, 105, 99], 0.8)])
    assert vid_average_precision(truth, predictions)["vid/ap_50"] == 1
    assert vid_average_precision(truth, predictions[np.array([0])])["vid/ap_50"] == 0.5


def test_of_equal_ious_a_detection_takes_the_object_annotated_first() -> None:
    truth = one_video([[[0, 0, 99, 99], [20, 0, 119, 99]]])
    only_first, only_second = [-20, 0, 79, 99], [40, 0, 139, 99]
    for second, expected in ((only_first, 0.5), (only_second, 1.0)):
        predictions = found([(0, [10, 0, 109, 99], 0.9), (0, second, 0.8)])
        assert vid_average_precision(truth, predictions)["vid/ap_50"] == expected


def test_small_objects_need_less_overlap() -> None:
    # 10 x 10 pixels: 100 / 400 = 0.25.
    assert vid_threshold(np.array([[0, 0, 9, 9], [0, 0, 499, 499]])).tolist() == [0.25, 0.5]
    truth = one_video([[[0, 0, 9, 9]]])
    for width, expected in ((4, 1.0), (5, 1.0), (2, 0.0)):
        # Pixels 0 to width - 1 of 10 columns: an IoU of width / 10.
        predictions = found([(0, [0, 0, width - 1, 9], 0.9)])
        assert vid_average_precision(truth, predictions)["vid/ap_50"] == expected


def test_each_object_counts_once() -> None:
    truth = one_video([[[0, 0, 99, 99]], [[0, 0, 99, 99]]])
    twice = found([(0, [0, 0, 99, 99], 0.9), (0, [0, 0, 98, 99], 0.8), (1, [0, 0, 99, 99], 0.7)])
    # True, false, true: precision 1 to recall 1/2, then 2/3.
    assert vid_average_precision(truth, twice)["vid/ap_50"] == pytest.approx((1 + 2 / 3) / 2)


def test_crowds_are_neither_found_nor_missed() -> None:
    truth = one_video([[[0, 0, 99, 99], [200, 0, 299, 99]]], iscrowd=[[False, True]])
    predictions = found(
        [(0, [200, 0, 240, 40], 0.9), (0, [240, 0, 280, 40], 0.9), (0, [0, 0, 99, 99], 0.8)]
    )
    assert vid_average_precision(truth, predictions)["vid/ap_50"] == 1


def test_half_of_a_detection_in_a_crowd_is_counted_in_pixels() -> None:
    truth = one_video([[[0, 0, 99, 99], [200, 0, 299, 99]]], iscrowd=[[False, True]])
    for left, expected in ((250, 1.0), (251, 0.5)):  # 50 of 100 columns inside, then 49
        predictions = found([(0, [left, 0, left + 99, 99], 0.9), (0, [0, 0, 99, 99], 0.8)])
        assert vid_average_precision(truth, predictions)["vid/ap_50"] == expected


def test_no_detections_and_nothing_to_find() -> None:
    none = found([])
    assert vid_average_precision(one_video([[[0, 0, 9, 9]]]), none)["vid/ap_50"] == 0
    assert math.isnan(vid_average_precision(one_video([[], []]), none)["vid/ap_50"])
    only = vid_average_precision(one_video([[]]), found([(0, [0, 0, 9, 9], 0.5)]))
    assert math.isnan(only["vid/ap_50"])
