"""The tables and charts of a report, as rows of plain values for the templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vodet.evaluation.measures import Measures
from vodet.evaluation.report.analysis import Analysis, best_threshold
from vodet.metrics.precision_recall import mean_of_known, precision_at_recall_points
from vodet.metrics.protocols import HEADLINES
from vodet.metrics.subsets import ClassOutcome
from vodet.metrics.table import metric_scale, metric_title
from vodet.metrics.tide import KINDS
from vodet.structures import GroundTruth

_CURVES = 60  # maximum number of classes whose curves are drawn
_CONFUSED = 30  # maximum number of classes of a confusion matrix
_VIDEOS = 15  # maximum number of videos in the table
_AGES = 60  # maximum number of points of a curve over time


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        name: Name of the row.
        values: A value per run.
        scale: Factor by which the values are multiplied.
        extras: Further values, as the table needs them.
    """

    name: str
    values: list[float]
    scale: float = 100.0
    extras: tuple[float, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A chart with a curve per run; both axes go from 0 to 100 units.

    Args:
        name: Title of the chart.
        lines: For each run, the points of an SVG polyline.
        values: A value per run, such as the area under the curve.
        end: Value at the end of the horizontal axis.
    """

    name: str
    lines: list[str]
    values: list[float]
    end: float = 1.0


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix with names.

    Args:
        names: Names of the classes in the matrix.
        counts: A row per annotated class and one of detections without an object; a column per
            detected class and one of objects that are not found.
        shares: Each count divided by the sum of its row.
    """

    names: list[str]
    counts: list[list[int]]
    shares: list[list[float]]


def counts(truth: GroundTruth) -> dict[str, int]:
    """Return the size of the data set."""
    return {
        "videos": len(np.unique(truth.videos)),
        "annotated frames": len(truth.image_ids),
        "objects": int((~truth.iscrowd).sum()),
        "classes": len(truth.class_names),
    }


def numbers(analyses: Sequence[Analysis], measures: Measures) -> list[Row]:
    """Return the metrics of the protocols, also of linked detections and of video attributes."""
    keys = [key for protocol in measures.by_name for key in HEADLINES[protocol]]
    linkings = [] if measures.tubelet_linking == "none" else [measures.tubelet_linking]
    rows = []
    for prefix in ("", *linkings):
        for key in keys:
            start = f"{prefix}/{key}" if prefix else key
            for name in analyses[0].run.result:
                if name == start or name.startswith(f"{start}@"):
                    title = metric_title(key) + name.removeprefix(start).replace("@", ", videos: ")
                    values = [run.run.result.get(name, np.nan) for run in analyses]
                    linked = f"{title} ({prefix})" if prefix else title
                    rows.append(Row(linked, values, metric_scale(key)))
    return rows


def subset_rows(analyses: Sequence[Analysis]) -> dict[str, list[Row]]:
    """Return AP50 by size, motion and track length, with the number of objects."""
    groups: dict[str, list[Row]] = {}
    for number, subset in enumerate(analyses[0].subsets[1:], start=1):
        values = [
            mean_of_known([outcome.ap for outcome in run.subsets[number].by_iou[0]])
            for run in analyses
        ]
        objects = float(sum(outcome.objects.sum() for outcome in subset.by_iou[0]))
        groups.setdefault(subset.group, []).append(Row(subset.name, values, extras=(objects,)))
    return {group: rows for group, rows in groups.items() if any(row.extras[0] for row in rows)}


def class_rows(analyses: Sequence[Analysis]) -> list[Row]:
    """Return the AP50 of each class that has objects or detections.

    The extras are the number of objects and, for each run, AP, the number of detections, the score
    threshold with the highest F1, and this F1.
    """
    rows = []
    for label, name in enumerate(analyses[0].ground_truth.class_names):
        by_run = [[own[label] for own in run.subsets[0].by_iou] for run in analyses]
        objects = int(by_run[0][0].objects.sum())
        extras = [float(objects)]
        for outcomes in by_run:
            ap = float(np.mean([outcome.ap for outcome in outcomes]))
            extras += [ap, float(len(outcomes[0].is_true)), *best_threshold(outcomes[0])]
        if objects or any(len(outcomes[0].is_true) for outcomes in by_run):
            rows.append(Row(name, [own[0].ap for own in by_run], extras=tuple(extras)))
    return rows


def curves(analyses: Sequence[Analysis]) -> list[Chart]:
    """Return the precision-recall curves at IoU 0.5 of the classes with the most objects."""
    outcomes = [run.subsets[0].by_iou[0] for run in analyses]
    objects = [int(outcome.objects.sum()) for outcome in outcomes[0]]
    order = sorted(range(len(objects)), key=lambda label: -objects[label])[:_CURVES]
    names = analyses[0].ground_truth.class_names
    return [
        Chart(
            names[label],
            [_points(_precision(own[label])) for own in outcomes],
            [own[label].ap for own in outcomes],
        )
        for label in order
        if objects[label]
    ]


def _precision(outcome: ClassOutcome) -> np.ndarray:
    return precision_at_recall_points(outcome.is_true, int(outcome.objects.sum()))


def _points(values: np.ndarray) -> str:
    """Return the points of an SVG polyline: values from 0 to 1, evenly spaced, from left to right.

    The vertical axis of SVG points downwards.
    """
    places = np.linspace(0, 100, len(values)) if len(values) > 1 else [50.0]
    return " ".join(
        f"{x:.4g},{100 - 100 * y:.4g}" for x, y in zip(places, values.tolist(), strict=True)
    )


def tide_rows(analyses: Sequence[Analysis]) -> list[Row]:
    """Return the gain in AP50 of correcting each kind of error; the extras are their numbers."""
    names = [*KINDS, "false_positives", "false_negatives"]
    return [
        Row(
            f"all {name.replace('_', ' ')}" if name not in KINDS else name,
            [run.tide[f"tide/{name}"] for run in analyses],
            extras=tuple(run.tide[f"tide/num_{name}"] for run in analyses if name in KINDS),
        )
        for name in names
    ]


def confusions(analyses: Sequence[Analysis]) -> list[Confusion]:
    """Return a confusion matrix per run.

    It has the 30 classes with the most objects and detections; the others are merged into one.
    """
    matrices = np.stack([run.confusion for run in analyses])
    names = list(analyses[0].ground_truth.class_names)
    totals = (matrices.sum(axis=(0, 1)) + matrices.sum(axis=(0, 2)))[:-1]
    kept = np.sort(np.argsort(-totals, kind="stable")[:_CONFUSED])
    target = np.full(len(names) + 1, len(kept))
    target[kept] = np.arange(len(kept))
    shown = [names[label] for label in kept]
    if len(kept) < len(names):
        shown.append(f"{len(names) - len(kept)} other classes")
    target[-1] = len(shown)
    found = []
    for matrix in matrices:
        merged = np.zeros((len(shown) + 1,) * 2, np.int64)
        np.add.at(merged, (target[:, None], target[None, :]), matrix)
        shares = merged / np.maximum(merged.sum(axis=1, keepdims=True), 1)
        found.append(Confusion(shown, merged.tolist(), shares.tolist()))
    return found


def age_chart(analyses: Sequence[Analysis]) -> Chart | None:
    """Return the share of objects found by the number of frames since their track began."""
    shares = [run.found_by_age() for run in analyses]
    length = len(shares[0])
    if length < 2:
        return None
    places = np.unique(np.linspace(0, length - 1, min(_AGES, length)).round().astype(int))
    lines = [_points(own[places]) for own in shares]
    return Chart("", lines, [], end=float(length))


def video_rows(analyses: Sequence[Analysis]) -> list[Row]:
    """Return the stability of the videos in which the runs find the smallest share of objects.

    The values are the shares; the extras are the other metrics of each run.
    """
    truth = analyses[0].ground_truth
    totals = np.stack([run.stability.totals for run in analyses])
    counts = np.stack([run.stability.counts for run in analyses])
    means = np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)
    worst = means[:, 0].min(axis=0)
    order = np.argsort(worst, kind="stable")  # NaN comes last
    order = order[~np.isnan(worst[order])][:_VIDEOS]
    return [
        Row(
            truth.video_names[video] if truth.video_names else f"video {video}",
            means[:, 0, video].tolist(),
            extras=tuple(means[:, 1:, video].ravel().tolist()),
        )
        for video in order.tolist()
    ]
