"""Chooses what the gallery of a report shows: the longest and the most confident errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vodet.evaluation.report.analysis import Analysis
from vodet.id_lookup import positions_in
from vodet.metrics.confusion import match_any_class
from vodet.metrics.tide import KINDS, find_errors
from vodet.metrics.tracks import tracks_of
from vodet.structures import GroundTruth

_EVENTS = 6  # maximum number of events of a kind


@dataclass(frozen=True)
class Event:
    """An error, or a difference between runs, that lasts from one frame to another.

    Args:
        label: Class of the object or detection concerned.
        frames: The first and the last frame, as indices into ``GroundTruth.image_ids``.
        text: What happens, in words and numbers.
        focus: For each frame concerned, as an index into ``GroundTruth.image_ids``, the box to
            highlight.
    """

    label: int
    frames: tuple[int, int]
    text: str
    focus: dict[int, np.ndarray] = field(repr=False)


@dataclass(frozen=True)
class EventGroup:
    """Events of one kind.

    Args:
        title: Name of the kind.
        explanation: How the events were chosen.
        events: The events, the worst first.
        runs: Indices of the runs whose detections are drawn.
    """

    title: str
    explanation: str
    events: list[Event]
    runs: tuple[int, ...] = (0,)


def find_events(analyses: Sequence[Analysis]) -> list[EventGroup]:
    """Find the errors of a single run, or how later runs differ from the first."""
    if len(analyses) == 1:
        return [*_losses(analyses[0]), _false_alarms(analyses[0]), _class_switches(analyses[0])]
    return [
        group
        for number in range(1, len(analyses))
        for group in _differences(analyses[0], analyses[number], number)
    ]


@dataclass(frozen=True)
class _Objects:
    """All annotated objects, by track; an object without a track id is a track of its own."""

    truth: GroundTruth
    rows: np.ndarray
    tracks: np.ndarray

    @staticmethod
    def of(truth: GroundTruth) -> _Objects:
        tracks = tracks_of(truth)
        rest = np.flatnonzero((truth.track_ids < 0) & ~truth.iscrowd)
        numbers = np.append(tracks.tracks, tracks.num_tracks + np.arange(len(rest)))
        return _Objects(truth, np.append(tracks.rows, rest), numbers)

    def stretches(self, state: np.ndarray) -> list[np.ndarray]:
        """Return the stretches of a track in which ``state`` holds, as positions in ``rows``."""
        changes = (np.diff(self.tracks) != 0) | (np.diff(state) != 0)
        parts = np.split(np.arange(len(state)), np.flatnonzero(changes) + 1)
        return [part for part in parts if part.size and state[part[0]]]

    def longest(self, stretches: list[np.ndarray]) -> list[np.ndarray]:
        """Return the longest stretches, of equally long ones the largest objects, one per track."""
        areas = self.truth.areas[self.rows]
        order = sorted(stretches, key=lambda part: (len(part), areas[part].mean()), reverse=True)
        by_track: dict[int, np.ndarray] = {}
        for part in order:
            by_track.setdefault(int(self.tracks[part[0]]), part)
        return list(by_track.values())[:_EVENTS]

    def event(self, part: np.ndarray, text: str) -> Event:
        rows = self.rows[part]
        frames = self.truth.frames[rows]
        boxes = self.truth.boxes[rows]
        ends = int(frames[0]), int(frames[-1])
        focus = dict(zip(frames.tolist(), boxes, strict=True))
        return Event(int(self.truth.labels[rows[0]]), ends, text, focus)

    def length(self, part: np.ndarray) -> int:
        """Return the number of frames of the track to which a stretch belongs."""
        return int((self.tracks == self.tracks[part[0]]).sum())


def _losses(run: Analysis) -> list[EventGroup]:
    objects = _Objects.of(run.ground_truth)
    found = run.finders[0][objects.rows] >= 0
    misses: list[np.ndarray] = []
    drop_outs: list[np.ndarray] = []
    for part in objects.stretches(~found):
        before, after = part[0] - 1, part[-1] + 1
        is_between = (
            before >= 0
            and after < len(found)
            and objects.tracks[before] == objects.tracks[part[0]] == objects.tracks[after]
        )
        (drop_outs if is_between else misses).append(part)
    return [
        EventGroup(
            "Misses",
            "Objects that are not found for the longest time, at the start, at the end or in all "
            "of their track.",
            [_lost(objects, part, "not found") for part in objects.longest(misses)],
        ),
        EventGroup(
            "Drop-outs",
            "Objects that are found, lost for the longest time, and found again.",
            [_lost(objects, part, "lost") for part in objects.longest(drop_outs)],
        ),
    ]


def _lost(objects: _Objects, part: np.ndarray, word: str) -> Event:
    return objects.event(part, f"{word} in {len(part)} of {objects.length(part)} frames")


def _false_alarms(run: Analysis) -> EventGroup:
    truth = run.ground_truth
    kept = run.run.predictions.scores >= np.float32(run.score_threshold)
    errors = find_errors(truth, run.run.predictions[kept])
    found = errors.predictions
    rows = np.flatnonzero((errors.kinds > KINDS.index("classification")) & ~errors.dropped)
    frames = positions_in(truth.image_ids, found.image_ids[rows])
    keys = truth.videos[frames] * len(truth.class_names) + found.labels[rows]
    best = np.sort(np.unique(keys, return_index=True)[1])[:_EVENTS]  # rows are best first
    events = [
        Event(
            int(found.labels[row]),
            (frame, frame),
            f"{KINDS[errors.kinds[row]]} error, score {found.scores[row]:.2f}",
            {frame: found.boxes[row]},
        )
        for row, frame in zip(rows[best].tolist(), frames[best].tolist(), strict=True)
    ]
    text = "Detections of no object with the highest scores, one per video and class."
    return EventGroup("False alarms", text, events)


def _class_switches(run: Analysis) -> EventGroup:
    truth, names = run.ground_truth, run.ground_truth.class_names
    kept = run.run.predictions.scores >= np.float32(run.score_threshold)
    found, matched = match_any_class(truth, run.run.predictions[kept])
    finders = np.full(len(truth.boxes), -1)
    hits = np.flatnonzero(matched >= 0)
    finders[matched[hits]] = hits
    objects = _Objects.of(truth)
    seen = np.flatnonzero(finders[objects.rows] >= 0)
    by = finders[objects.rows[seen]]
    labels, scores = found.labels[by], found.scores[by]
    is_switch = (np.diff(labels) != 0) & (np.diff(objects.tracks[seen]) == 0)
    switches = np.flatnonzero(is_switch)
    annotated = truth.labels[objects.rows[seen]]
    wrong = np.where(labels != annotated, scores, 0.0)
    order = switches[np.argsort(-np.maximum(wrong[switches], wrong[switches + 1]), kind="stable")]
    _, first = np.unique(objects.tracks[seen[order]], return_index=True)
    events = [
        objects.event(
            np.arange(seen[at], seen[at + 1] + 1),
            f"{names[labels[at]]} {scores[at]:.2f}, then {names[labels[at + 1]]} "
            f"{scores[at + 1]:.2f}; annotated as {names[annotated[at]]}",
        )
        for at in order[np.sort(first)][:_EVENTS].tolist()
    ]
    text = "Objects whose detected class changes, by the score of the wrong class."
    return EventGroup("Class switches", text, events)


def _differences(first: Analysis, other: Analysis, number: int) -> list[EventGroup]:
    objects = _Objects.of(first.ground_truth)
    before, after = (run.finders[0][objects.rows] >= 0 for run in (first, other))
    groups = []
    for winner, loser, state in (
        (other.run.name, first.run.name, after & ~before),
        (first.run.name, other.run.name, before & ~after),
    ):
        parts = objects.longest(objects.stretches(state))
        text = f"Objects that {winner} finds and {loser} does not, for the longest time."
        events = [_lost(objects, part, "found by one run only") for part in parts]
        groups.append(EventGroup(f"Found by {winner} alone", text, events, (0, number)))
    return groups
