"""Measures the best AP50 on the long-range set that is possible without a memory.

    vodet-data generate data/long_range --set long_range
    python scripts/benchmarks/long_range_limit.py data/long_range/val.json

The detections are the annotated boxes. Where the window of a frame contains a clear frame, each has
its class and a high score. Elsewhere nothing tells the class, so each has every class, with a lower
score that is the same for all but for a random order. The last row has a memory.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from vodet.data.annotations.st_coco import read_st_coco
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.detection_table import DetectionTable
from vodet.structures import GroundTruth


def best_detections(
    truth: GroundTruth, is_known: np.ndarray, rng: np.random.Generator
) -> DetectionTable:
    """Return perfect boxes, with their classes in the frames ``is_known`` ``[F]`` bool."""
    rows, classes = np.arange(len(truth.boxes)), len(truth.class_names)
    known = is_known[truth.frames]
    guessed = np.repeat(rows[~known], classes)
    chosen = np.concatenate((rows[known], guessed))
    guesses = np.tile(np.arange(classes), (~known).sum())
    guess_scores = 0.5 + 1e-3 * rng.uniform(size=len(guesses))
    return DetectionTable(
        image_ids=truth.image_ids[truth.frames[chosen]],
        boxes=truth.boxes[chosen],
        scores=np.concatenate((np.ones(known.sum()), guess_scores)).astype(np.float32),
        labels=np.concatenate((truth.labels[known], guesses)),
    )


def limit(truth: GroundTruth, is_clear: np.ndarray, reach: int, draws: int) -> float:
    """Return the AP50, in percent, of a window that reaches ``reach`` frames back."""
    is_known = is_clear.copy()
    for step in range(1, reach + 1):
        is_same_video = truth.videos[step:] == truth.videos[:-step]
        is_known[step:] |= is_clear[:-step] & is_same_video
    generators = map(np.random.default_rng, range(draws))
    return mean(
        100 * coco_average_precision(truth, best_detections(truth, is_known, rng))["map_50"]
        for rng in generators
    )


def main() -> None:
    """Print the limits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("annotations", type=Path, help="train.json or val.json of the set")
    parser.add_argument("--reach", nargs="+", type=int, default=[0, 3, 1_000])
    parser.add_argument("--draws", type=int, default=5, help="number of random orders")
    options = parser.parse_args()

    truth = read_st_coco(options.annotations).ground_truth()
    images = msgspec.json.decode(options.annotations.read_bytes())["images"]
    is_clear_by_id = {image["id"]: image["is_clear"] for image in images}
    is_clear = np.array([is_clear_by_id[image_id] for image_id in truth.image_ids.tolist()])
    table = Table(title=f"{is_clear.mean():.0%} of {len(is_clear)} frames are clear")
    for column in ("frames before", "AP50"):
        table.add_column(column, justify="right")
    for reach in options.reach:
        table.add_row(str(reach), f"{limit(truth, is_clear, reach, options.draws):.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
