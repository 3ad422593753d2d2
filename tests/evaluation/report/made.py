"""A small data set with images and noisy detections, for the tests of reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from vodet.data.annotations.st_coco import read_st_coco
from vodet.evaluation.measures import Measures
from vodet.evaluation.report.analysis import EvaluatedData, Run
from vodet.metrics.detection_table import DetectionTable

MEASURES = Measures(["coco", "vid", "motion", "stability"])


def made_data(
    folder: Path,
    *,
    class_names: Sequence[str] = ("car", "dog"),
    video_names: Sequence[str] = ("street", "park", "beach"),
    frames: int = 9,
    tracks: int = 2,
) -> EvaluatedData:
    """Write videos of 48 x 64 pixels, in which each object moves to the right."""
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for video, name in enumerate(video_names):
        for frame in range(frames):
            image_id = video * 100 + frame
            file_name = f"images/{image_id}.jpg"
            picture = np.full((48, 64, 3), (40 * video + 10 * frame) % 256, np.uint8)
            cv2.imwrite(str(folder / file_name), picture)
            images.append(
                {"id": image_id, "file_name": file_name, "video": name, "frame_number": frame}
                | {"height": 48, "width": 64}
            )
            annotations += [
                {"id": len(annotations) + 1 + track, "image_id": image_id, "id_track": track}
                | {"category_id": track % len(class_names) + 1}
                | {"bbox": [2 + 3 * frame, 4 + 22 * track, 16, 12]}
                for track in range(tracks)
            ]
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(class_names)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "val.json"
    path.write_text(json.dumps(document))
    index = read_st_coco(path)
    return EvaluatedData(index, index.ground_truth(), str(folder))


def noisy_run(data: EvaluatedData, name: str, seed: int = 0, found: float = 0.6) -> Run:
    """Find a share of the objects, some of them as another class, and add false alarms."""
    rng = np.random.default_rng(seed)
    truth = data.ground_truth
    rows = np.flatnonzero(rng.random(len(truth.boxes)) < found)
    false = np.repeat([[40, 30, 60, 46]], len(truth.image_ids) // 3, axis=0)
    boxes = np.vstack([truth.boxes[rows] + rng.normal(0, 0.5, (len(rows), 4)), false])
    labels = np.append(truth.labels[rows], np.zeros(len(false), int))
    labels[::5] = (labels[::5] + 1) % len(truth.class_names)
    frames = np.append(truth.frames[rows], np.arange(len(false)) * 3)
    predictions = DetectionTable(
        truth.image_ids[frames],
        boxes.astype(np.float32),
        (0.2 + 0.8 * rng.random(len(boxes))).astype(np.float32),
        labels.astype(np.int64),
    ).by_image()
    return Run(name, predictions, MEASURES(truth, predictions))


def empty_run(data: EvaluatedData, name: str = "nothing") -> Run:
    predictions = DetectionTable.of_frames([], [])
    return Run(name, predictions, MEASURES(data.ground_truth, predictions))
