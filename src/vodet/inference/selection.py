"""Selects detections by score and class."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch

from vodet.errors import ConfigError
from vodet.structures import Detections

SCORE_THRESHOLD = 0.3

Threshold = float | int | Mapping[str, float | int]


class Selection:
    """Selects the detections of some classes whose score is high enough.

    Args:
        class_names: The class name of each label.
        score_threshold: Minimum score (inclusive): a number, or a mapping from class names to
            numbers. Classes that the mapping lacks have the default, 0.3.
        classes: Names of the classes to keep; None keeps all classes.

    Raises:
        ConfigError: If a threshold is not a number, a class is unknown, or there are no classes.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        score_threshold: Threshold = SCORE_THRESHOLD,
        classes: str | Iterable[str] | None = None,
    ) -> None:
        self.class_names = tuple(class_names)
        by_class = (
            dict(score_threshold)
            if isinstance(score_threshold, Mapping)
            else dict.fromkeys(class_names, score_threshold)
        )
        wanted = class_names if classes is None else classes
        kept = [wanted] if isinstance(wanted, str) else list(wanted)
        if not kept:
            msg = "classes: expected at least one class name, found none. None keeps all classes."
            raise ConfigError(msg)
        self._check("score_threshold", by_class)
        self._check("classes", kept)
        numbers = {name: check_threshold(value) for name, value in by_class.items()}
        self.thresholds = torch.tensor(  # float32, like scores
            [
                numbers.get(name, SCORE_THRESHOLD) if name in kept else math.inf
                for name in class_names
            ]
        )

    def __call__(self, detections: Detections) -> Detections:
        """Return the selected detections, with tensors on the CPU."""
        found: Any = {key: value.cpu() for key, value in detections.items()}  # type: ignore[attr-defined]
        kept = found["scores"] >= self.thresholds[found["labels"]]
        return cast("Detections", {key: value[kept] for key, value in found.items()})

    def _check(self, setting: str, names: Iterable[object]) -> None:
        if unknown := [name for name in names if name not in self.class_names]:
            near = difflib.get_close_matches(str(unknown[0]), self.class_names, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            msg = (
                f"{setting}: the detector has no class {unknown[0]!r}.{hint} Its classes are "
                f"{', '.join(self.class_names)}."
            )
            raise ConfigError(msg)


def check_threshold(value: Any) -> float:
    """Return a score threshold.

    Raises:
        ConfigError: If it is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        msg = f"score_threshold must be a number, found {value}."
        raise ConfigError(msg)
    return float(value)
