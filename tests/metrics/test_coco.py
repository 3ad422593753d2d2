from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.annotations.random_document import random_document
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.detection_table import DetectionTable
from vodet.structures import Detections, GroundTruth

# In the order of COCOeval.stats.
OVERALL = [f"map{kind}" for kind in ("", "_50", "_75", "_small", "_medium", "_large")]
OVERALL += [f"mar_{kind}" for kind in ("1", "10", "100", "small", "medium", "large")]


def random_ground_truth(
    rng: np.random.Generator, frames: int = 12, classes: int = 4
) -> GroundTruth:
    """Frames without objects, a class without objects, crowds, image ids in no order."""
    counts = rng.integers(0, 8, frames) * (rng.random(frames) < 0.8)
    number = int(counts.sum())
    boxes = random_boxes(rng, number)
    return GroundTruth(
        class_names=tuple(f"class {label}" for label in range(classes)),
        category_ids=np.arange(classes) * 3 + 1,
        image_ids=rng.permutation(frames * 5)[:frames] + 10**12,
        sizes=np.full((frames, 2), 300, np.int32),
        videos=np.zeros(frames, np.int64),
        frame_numbers=np.arange(frames, dtype=np.int32),
        box_starts=np.append(0, np.cumsum(counts)),
        boxes=boxes,
        labels=rng.integers(0, classes - 1, number),
        track_ids=np.full(number, -1, np.int32),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * np.float32(0.8),
        iscrowd=rng.random(number) < 0.15,
    )


def random_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    origins = rng.uniform(0, 150, (number, 2))
    return np.hstack([origins, origins + rng.uniform(4, 150, (number, 2))]).astype(np.float32)


def random_detections(
    rng: np.random.Generator, truth: GroundTruth, frame: int, extra: int = 5
) -> Detections:
    """Some of the objects found more or less well, some not, some false; many equal scores."""
    rows = np.arange(truth.box_starts[frame], truth.box_starts[frame + 1])
    rows = rows[rng.random(len(rows)) < 0.8]
    boxes = truth.boxes[rows] + rng.normal(0, 4, (len(rows), 4)).astype(np.float32)
    boxes = np.vstack([boxes, random_boxes(rng, extra)])
    labels = np.append(truth.labels[rows], rng.integers(0, len(truth.class_names), extra))
    scores = np.sort(rng.integers(0, 8, len(boxes)) / np.float32(8))[::-1].copy()
    order = rng.permutation(len(boxes))
    return Detections(
        boxes=torch.from_numpy(boxes[order]),
        scores=torch.from_numpy(scores.astype(np.float32)),
        labels=torch.from_numpy(labels[order].astype(np.int64)),
    )


def pycocotools_stats(truth: GroundTruth, predictions: DetectionTable) -> np.ndarray:
    frames = np.repeat(truth.image_ids, np.diff(truth.box_starts))
    annotated, detected = COCO(), COCO()
    for number, (coco, image_ids, boxes, labels) in enumerate(
        [
            (annotated, frames, truth.boxes, truth.labels),
            (detected, predictions.image_ids, predictions.boxes, predictions.labels),
        ]
    ):
        sides = boxes[:, 2:].astype(float) - boxes[:, :2]
        rows = [
            {
                "id": row + 1,
                "image_id": int(image_ids[row]),
                "category_id": int(truth.category_ids[labels[row]]),
                "bbox": [*boxes[row, :2].astype(float), *sides[row]],
                "area": float(sides[row].prod() if number else truth.areas[row]),
                "iscrowd": 0 if number else int(truth.iscrowd[row]),
                "score": float(predictions.scores[row]) if number else 0,
            }
            for row in range(len(boxes))
        ]
        coco.dataset = {
            "images": [{"id": int(image_id)} for image_id in truth.image_ids],
            "categories": [{"id": int(category)} for category in truth.category_ids],
            "annotations": rows,
        }
        coco.createIndex()
    evaluation = COCOeval(annotated, detected, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    stats: np.ndarray = evaluation.stats
    per_class = evaluation.eval["precision"][..., 0, 2]
    return np.append(stats, [per_class.mean(axis=(0, 1)), per_class[0].mean(axis=0)])


def assert_equal_to_pycocotools(truth: GroundTruth, predictions: DetectionTable) -> None:
    result = coco_average_precision(truth, predictions)
    keys = OVERALL + [f"{kind}/{name}" for kind in ("map", "map_50") for name in truth.class_names]
    assert list(result)[:12] == OVERALL
    assert set(result) == set(keys)
    ours = np.nan_to_num([result[key] for key in keys], nan=-1)
    np.testing.assert_allclose(ours, pycocotools_stats(truth, predictions), atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(8))
def test_is_equal_to_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = random_ground_truth(rng)
    processed = [frame for frame in range(12) if rng.random() < 0.8]
    predictions = DetectionTable.of_frames(
        truth.image_ids[processed].tolist(),
        [random_detections(rng, truth, frame) for frame in processed],
    )
    assert_equal_to_pycocotools(truth, predictions)


def test_hundreds_of_frames() -> None:
    rng = np.random.default_rng(9)
    truth = random_ground_truth(rng, frames=300, classes=6)
    found = [random_detections(rng, truth, frame) for frame in range(300)]
    assert_equal_to_pycocotools(truth, DetectionTable.of_frames(truth.image_ids.tolist(), found))


def test_more_than_a_hundred_detections_in_a_frame() -> None:
    rng = np.random.default_rng(0)
    truth = random_ground_truth(rng, frames=3, classes=2)
    found = [random_detections(rng, truth, frame, extra=250) for frame in range(3)]
    assert_equal_to_pycocotools(truth, DetectionTable.of_frames(truth.image_ids.tolist(), found))


def ground_truth_of(content: dict[str, Any]) -> GroundTruth:
    image_ids = np.array([image["id"] for image in content["images"]])
    annotations = sorted(
        content["annotations"], key=lambda row: int(np.flatnonzero(image_ids == row["image_id"])[0])
    )
    frames = np.array([row["image_id"] for row in annotations])
    boxes = np.array([row["bbox"] for row in annotations], np.float32)
    boxes[:, 2:] += boxes[:, :2]
    categories = {row["id"]: row["name"] for row in content["categories"]}
    category_ids = np.array(sorted(categories))
    labels = np.searchsorted(category_ids, [row["category_id"] for row in annotations])
    return GroundTruth(
        class_names=tuple(categories[category] for category in sorted(categories)),
        category_ids=category_ids,
        image_ids=image_ids,
        sizes=np.array([(image["height"], image["width"]) for image in content["images"]]),
        videos=np.unique([image["video"] for image in content["images"]], return_inverse=True)[1],
        frame_numbers=np.array([image["frame_number"] for image in content["images"]], np.int32),
        box_starts=np.append(0, np.cumsum([(frames == image).sum() for image in image_ids])),
        boxes=boxes,
        labels=labels,
        track_ids=np.full(len(labels), -1, np.int32),
        areas=np.array([row["area"] for row in annotations], np.float32),
        iscrowd=np.array([bool(row["iscrowd"] or row["ignore"]) for row in annotations]),
    )


@pytest.mark.parametrize("crowded", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_annotations_at_real_sizes_with_perturbed_boxes(seed: int, crowded: bool) -> None:
    truth = ground_truth_of(random_document(seed, crowded))
    objects = truth.areas[~truth.iscrowd]
    assert np.histogram(objects, [0, 32**2, 96**2, 1e9])[0].min() > 3  # small, medium, large
    assert truth.iscrowd.any()
    rng = np.random.default_rng(0)
    found = [random_detections(rng, truth, frame, extra=2) for frame in range(len(truth.image_ids))]
    predictions = DetectionTable.of_frames(truth.image_ids.tolist(), found)
    assert 0.05 < coco_average_precision(truth, predictions)["map"] < 0.9
    assert_equal_to_pycocotools(truth, predictions)
