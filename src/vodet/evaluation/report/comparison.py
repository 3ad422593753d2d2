"""Differences between runs, with the intervals of a paired bootstrap over videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np

from vodet.evaluation.report.analysis import Analysis
from vodet.metrics.bootstrap import Interval, interval, resample_videos, resampled_mean_ap
from vodet.metrics.precision_recall import mean_of_known
from vodet.metrics.stability import STABILITY_METRICS
from vodet.metrics.subsets import ClassOutcome
from vodet.metrics.table import metric_scale, metric_title

STABILITY = "stability"  # the group of the metrics of stability

Outcomes = list[list[ClassOutcome]]  # for each IoU threshold, the outcome of each class


@dataclass(frozen=True)
class Difference:
    """A metric of all runs, and how the later runs differ from the first.

    Args:
        group: What the metric is about, such as ``motion``.
        name: Name of the metric, such as ``AP50 fast``.
        values: The metric of each run.
        intervals: For each later run, the interval of the difference to the first run. NaN if
            fewer than two videos have such objects.
        num_objects: Number of objects that are measured; None if the metric is not about objects.
        scale: Factor by which the values are multiplied.
    """

    group: str
    name: str
    values: list[float]
    intervals: list[Interval]
    num_objects: int | None = None
    scale: float = 100.0

    @property
    def changes(self) -> list[float]:
        """For each later run, the difference to the first run."""
        return [value - self.values[0] for value in self.values[1:]]

    @property
    def reach(self) -> float:
        """The largest absolute value among the changes and the limits of their intervals."""
        ends = [limit for limits in self.intervals for limit in limits]
        return max((abs(end) for end in [*self.changes, *ends] if not isnan(end)), default=0.0)


def by_group(rows: Sequence[Difference]) -> dict[str, list[tuple[Difference, float]]]:
    """Return the rows of each group, and the difference at which the chart of the row ends.

    It is the same for all rows of a group, except that each metric of stability has its own.
    """
    groups: dict[str, list[Difference]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return {
        group: [
            (row, row.reach if group == STABILITY else max(own.reach for own in members))
            for row in members
        ]
        for group, members in groups.items()
    }


def differences(analyses: Sequence[Analysis]) -> list[Difference]:
    """Compare runs on the same data: AP, AP50 by size, motion, track length and class, stability.

    The videos are resampled 1,000 times with a fixed seed, the same videos for all runs.

    Args:
        analyses: Two or more runs; the first is the baseline.
    """
    truth = analyses[0].ground_truth
    num_videos = int(truth.videos.max(initial=-1)) + 1
    annotated = np.unique(truth.videos)
    weights = np.zeros((1000, num_videos))
    weights[:, annotated] = resample_videos(len(annotated))
    comparison = _Comparison(analyses, weights)
    subsets = analyses[0].subsets
    rows = [
        comparison.of_ap("all objects", "AP", lambda run: run.subsets[0].by_iou),
        comparison.of_ap("all objects", "AP50", lambda run: run.subsets[0].by_iou[:1]),
    ]
    rows += [
        comparison.of_ap(f"AP50 by {subset.group}", subset.name, _subset(number))
        for number, subset in enumerate(subsets[1:], start=1)
    ]
    rows += [
        comparison.of_ap("AP50 by class", name, _one_class(label))
        for label, name in enumerate(truth.class_names)
    ]
    rows = [row for row in rows if row.num_objects]
    return rows + comparison.of_stability()


def _subset(number: int) -> Callable[[Analysis], Outcomes]:
    return lambda run: run.subsets[number].by_iou


def _one_class(label: int) -> Callable[[Analysis], Outcomes]:
    return lambda run: [[run.subsets[0].by_iou[0][label]]]


@dataclass(frozen=True)
class _Comparison:
    analyses: Sequence[Analysis]
    weights: np.ndarray

    def of_ap(
        self, group: str, name: str, outcomes_of: Callable[[Analysis], Outcomes]
    ) -> Difference:
        outcomes = [outcomes_of(run) for run in self.analyses]
        values = [
            mean_of_known([mean_of_known([own.ap for own in classes]) for classes in by_iou])
            for by_iou in outcomes
        ]
        objects = np.sum([own.objects for own in outcomes[0][0]], axis=0)
        if not objects.any():
            return Difference(group, name, values, [], 0)
        resampled = [resampled_mean_ap(by_iou, self.weights) for by_iou in outcomes]
        intervals = _intervals(resampled, int((objects > 0).sum()))
        return Difference(group, name, values, intervals, int(objects.sum()))

    def of_stability(self) -> list[Difference]:
        ones = np.ones(self.weights.shape[1])
        values = np.stack([run.stability.means(ones) for run in self.analyses])
        resampled = np.stack([run.stability.means(self.weights) for run in self.analyses])
        return [
            Difference(
                STABILITY,
                metric_title(name),
                own.tolist(),
                _intervals(list(again), int((self.analyses[0].stability.counts[1] > 0).sum())),
                scale=metric_scale(name),
            )
            for name, own, again in zip(
                STABILITY_METRICS, values.T, resampled.transpose(2, 0, 1), strict=True
            )
            if not np.isnan(own).all()
        ]


def _intervals(resampled: list[np.ndarray], num_videos: int) -> list[Interval]:
    """Return the interval of the difference of each later run to the first.

    Args:
        resampled: The resampled metric of each run.
        num_videos: Number of videos in which the metric measures something.
    """
    if num_videos < 2:
        return [Interval(float("nan"), float("nan"))] * (len(resampled) - 1)
    return [interval(values - resampled[0]) for values in resampled[1:]]
