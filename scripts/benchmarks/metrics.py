"""Compares the time and memory of the evaluation protocols with pycocotools.

Generates annotations and predictions for as many frames as ImageNet VID's validation set has, then
measures each protocol in a fresh process, from arrays in memory to metrics.

    python scripts/benchmarks/metrics.py                                    # 176,126 frames
    python scripts/benchmarks/metrics.py --frames 2000 --only vid motion
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import psutil
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.table import Table

from vodet.evaluation.measures import link_tubelets
from vodet.inference.tubelet_linking import LINKINGS
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.motion import motion_average_precision
from vodet.metrics.stability import stability
from vodet.metrics.track_length import track_length_average_precision
from vodet.metrics.uavdt import uavdt_average_precision
from vodet.metrics.vid import vid_average_precision
from vodet.structures import GroundTruth

MEGABYTE = 10**6
FRAMES_OF_A_VIDEO = 317  # 176,126 frames in 555 videos
OBJECTS_OF_A_FRAME = 2  # 273,505 boxes in 176,126 frames, rounded up
SIDE = 600.0


def main() -> None:
    """Measure each protocol in its own process and print the table."""
    arguments = parse_arguments()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return
    table = Table(
        title=f"{arguments.frames} frames x {arguments.detections} detections, "
        f"{arguments.classes} classes; Python {platform.python_version()}, {platform.machine()}"
    )
    for title in ("", "seconds", "CPU seconds", "MB in addition to the data", "AP50"):
        table.add_column(title, justify="right")
    for name in arguments.only or MEASURES:
        table.add_row(name, *run_alone(name))
    Console().print(table)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=176_126)
    parser.add_argument("--detections", type=int, default=30, help="per frame")
    parser.add_argument("--classes", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=MEASURES, help="the protocols to measure")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_alone(name: str) -> list[str]:
    """Measure a protocol in a fresh process; return the cells of its row."""
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", name]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    return [
        f"{result['seconds']:.1f}",
        f"{result['cpu_seconds']:.1f}",
        f"{result['bytes'] / MEGABYTE:.0f}",
        f"{result['ap_50']:.4f}",
    ]


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Generate the data and evaluate them once."""
    truth = make_ground_truth(arguments.frames, arguments.classes)
    predictions = make_predictions(truth, arguments.detections)
    held = psutil.Process().memory_info().rss
    started, cpu_started = time.perf_counter(), time.process_time()
    ap_50 = MEASURES[arguments.measure](truth, predictions)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    # In kilobytes on Linux, in bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "bytes": max(0, peak - held),
        "ap_50": ap_50,
    }


def make_ground_truth(frames: int, classes: int) -> GroundTruth:
    """Generate objects that move in straight lines through videos, some slowly and some fast."""
    rng = np.random.default_rng(0)
    videos, numbers = np.divmod(np.arange(frames), FRAMES_OF_A_VIDEO)
    shape = (int(videos[-1]) + 1, OBJECTS_OF_A_FRAME)
    starts, speeds = rng.uniform(0, SIDE, (*shape, 2)), rng.normal(0, 1, (*shape, 2))
    sides = rng.uniform(30, 200, (*shape, 2))
    speeds *= rng.choice([0.1, 2, 20], (*shape, 1))
    corners = (starts[videos] + numbers[:, None, None] * speeds[videos]).reshape(-1, 2) % SIDE
    boxes = np.hstack([corners, corners + sides[videos].reshape(-1, 2)]).astype(np.float32)
    return GroundTruth(
        class_names=tuple(f"class {label}" for label in range(classes)),
        category_ids=np.arange(classes) + 1,
        image_ids=np.arange(frames) + 1,
        sizes=np.full((frames, 2), 800, np.int32),
        videos=videos,
        frame_numbers=numbers.astype(np.int32),
        box_starts=np.arange(frames + 1) * OBJECTS_OF_A_FRAME,
        boxes=boxes,
        labels=rng.integers(0, classes, shape)[videos].ravel(),
        track_ids=np.tile(np.arange(OBJECTS_OF_A_FRAME, dtype=np.int32), frames),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        iscrowd=np.zeros(len(boxes), bool),
    )


def make_predictions(truth: GroundTruth, number: int) -> DetectionTable:
    """Generate detections: a third near objects, with their classes; the others random."""
    rng = np.random.default_rng(1)
    frames = np.repeat(np.arange(len(truth.image_ids)), number)
    objects = truth.box_starts[frames] + rng.integers(0, OBJECTS_OF_A_FRAME, len(frames))
    is_near = rng.random(len(frames)) < 1 / 3
    shift = rng.normal(0, 12, (len(frames), 4)).astype(np.float32)
    shift[~is_near] *= 20
    boxes = truth.boxes[objects] + shift
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    anything = rng.integers(0, len(truth.class_names), len(frames))
    scores = rng.random(len(frames), np.float32) ** np.where(is_near, 1, 4).astype(np.float32)
    order = np.lexsort((-scores, frames))
    labels = np.where(is_near, truth.labels[objects], anything)
    return DetectionTable(truth.image_ids[frames], boxes[order], scores[order], labels[order])


def pycocotools(truth: GroundTruth, predictions: DetectionTable) -> float:
    """Evaluate class by class with pycocotools, from rows of numbers."""
    annotated = COCO()
    boxes = truth.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(
        truth.image_ids[truth.frames].tolist(), truth.labels.tolist(), boxes.tolist(), strict=True
    )
    annotated.dataset = {
        "images": [{"id": image_id} for image_id in truth.image_ids.tolist()],
        "categories": [{"id": label} for label in range(len(truth.class_names))],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": label,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for number, (image_id, label, box) in enumerate(rows, 1)
        ],
    }
    sides = predictions.boxes[:, 2:].astype(np.float64) - predictions.boxes[:, :2]
    columns = (predictions.image_ids, predictions.boxes[:, :2], sides)
    found = np.column_stack([*columns, predictions.scores, predictions.labels])
    with contextlib.redirect_stdout(io.StringIO()):
        annotated.createIndex()
        results = annotated.loadRes(found)
        of_classes = [pycocotools_class(annotated, results, k) for k in annotated.getCatIds()]
    return float(np.nanmean(of_classes))


def pycocotools_class(annotated: COCO, results: COCO, category: int) -> float:
    """Return the AP50 of one class. The mean over the classes is the AP50 of all classes.

    pycocotools keeps a dictionary for each frame, class and area range. All 30 classes of 176,126
    frames at once would need more than 20 GB.
    """
    evaluation = COCOeval(annotated, results, "bbox")
    evaluation.params.catIds = [category]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ap_50 = evaluation.stats[1]
    return float("nan") if ap_50 < 0 else float(ap_50)


def linked_vid(linking: str, truth: GroundTruth, predictions: DetectionTable) -> float:
    """Link tubelets and return VID AP50."""
    return vid_average_precision(truth, link_tubelets(truth, predictions, linking))["vid/ap_50"]


MEASURES: dict[str, Callable[[GroundTruth, DetectionTable], float]] = {
    "pycocotools": pycocotools,
    "coco": lambda *data: coco_average_precision(*data)["map_50"],
    "vid": lambda *data: vid_average_precision(*data)["vid/ap_50"],
    "motion": lambda *data: motion_average_precision(*data)["motion/ap_50_medium"],
    "track_length": lambda *data: track_length_average_precision(*data)["track_length/ap_50_long"],
    "uavdt": lambda *data: uavdt_average_precision(*data)["uavdt/ap_70"],
    "stability": lambda *data: stability(*data)["stability/found"],
    **{f"{name} and vid": partial(linked_vid, name) for name in LINKINGS},
}

if __name__ == "__main__":
    main()
