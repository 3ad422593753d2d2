"""Combines the clips of several data sets, with sampling weights for data sets and classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int, Int64
from torch.utils.data import Dataset

from vodet.data.annotations.columns import starts_of
from vodet.data.clips.dataset import ClipDataset
from vodet.data.clips.sampling import ClipDraw
from vodet.errors import ConfigError
from vodet.structures import Clip


class MixedClips(Dataset[Clip]):
    """The concatenated clips of several data sets.

    Args:
        parts: At least one data set. A label means the same class in all of them.
    """

    def __init__(self, parts: Sequence[ClipDataset]) -> None:
        self.parts = tuple(parts)
        self.starts = starts_of(np.array([len(part) for part in parts]))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, item: ClipDraw | int) -> Clip:
        """Return a clip, as in `ClipDataset`; its number counts the clips of all data sets."""
        draw = ClipDraw(0, item) if isinstance(item, int) else item
        part = int(np.searchsorted(self.starts, draw.clip, side="right")) - 1
        return self.parts[part][draw._replace(clip=draw.clip - int(self.starts[part]))]

    def report_bad_frames(self) -> None:
        """Log how many bad frames were skipped since the last report, and the first errors."""
        for part in self.parts:
            part.report_bad_frames()

    def weights(
        self, shares: Sequence[float | int | None], balance_classes: bool = False
    ) -> Float64[np.ndarray, " clips"] | None:
        """Return the sampling weight of each clip, or None if all clips have the same weight.

        Args:
            shares: Relative share of each data set in an epoch. If all are None, the data sets are
                sampled in proportion to their numbers of clips.
            balance_classes: Whether to balance classes (see `class_balance`): within each data set
                if there are shares, otherwise over all clips.

        Raises:
            ConfigError: If only some data sets have a share, or a share is not a positive number.
        """
        known = [share for share in shares if share is not None]
        if known and not all(map(_is_share, shares)):
            msg = (
                "Expected a share above 0 for each training set (data.train.share, "
                f"data.extra_train.NAME.share) or for none of them, found {list(shares)}."
            )
            raise ConfigError(msg)
        if not known:
            return class_balance(*self._classes(), len(self)) if balance_classes else None
        parts = []
        for part, share in zip(self.parts, known, strict=True):
            weights = np.ones(len(part))
            if balance_classes:
                weights = class_balance(*part.classes(), len(part))
            parts.append(weights * (share / weights.sum()))
        return np.concatenate(parts)

    def _classes(self) -> tuple[np.ndarray, np.ndarray]:
        clips, labels = zip(*(part.classes() for part in self.parts), strict=True)
        shifted = [own + start for own, start in zip(clips, self.starts, strict=False)]
        return np.concatenate(shifted), np.concatenate(labels)


def _is_share(share: float | int | None) -> bool:
    """Return whether a value from a config is a finite number above 0."""
    if isinstance(share, bool) or not isinstance(share, int | float):
        return False
    return 0 < share < math.inf


def class_balance(
    clips: Int[np.ndarray, " P"], labels: Int[np.ndarray, " P"], num_clips: int
) -> Float64[np.ndarray, " clips"]:
    """Return a sampling weight for each clip, so that all classes are drawn equally often.

    The weights correspond to drawing a class uniformly, then a clip uniformly among the clips with
    this class in the reference frame. Clips without objects are drawn as often as without weights.

    Args:
        clips: Number of the clip of each object.
        labels: Class of each object.
        num_clips: Number of clips, including clips without objects.
    """
    shown, classes = np.unique(np.stack([clips, labels]), axis=1)
    counts = np.bincount(classes)
    weights = np.bincount(shown, 1 / counts[classes], minlength=num_clips)
    is_empty = weights == 0
    scale = (1 - is_empty.mean()) / max(np.count_nonzero(counts), 1)
    return np.where(is_empty, 1 / num_clips, weights * scale)


def draw_clips(
    weights: Float64[np.ndarray, " clips"], offset: float
) -> tuple[Int64[np.ndarray, " clips"], Int64[np.ndarray, " clips"]]:
    """Draw ``len(weights)`` clips in proportion to their weights, by systematic sampling.

    Each clip is drawn as often as expected, up to rounding: a clip with an expected count of 1.3 is
    drawn once or twice.

    Args:
        weights: Sampling weight of each clip, 0 or more; at least one is above 0.
        offset: Random number in ``[0, 1)`` that decides which expected counts are rounded up.

    Returns:
        The numbers of the drawn clips in ascending order, and for each draw, how often the same
        clip precedes it.
    """
    number = len(weights)
    ends = np.cumsum(weights)
    ends *= number / ends[-1]
    ends[-1] = number  # exact despite rounding
    counts = np.diff(np.append(0, np.floor(ends + offset).astype(np.int64)))
    firsts = np.cumsum(counts) - counts
    return np.repeat(np.arange(number), counts), np.arange(number) - np.repeat(firsts, counts)
