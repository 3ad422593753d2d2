"""Clips of several data sets as one data set, with weights for data sets and classes."""

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
        parts: The data sets, at least one, with the same labels.
    """

    def __init__(self, parts: Sequence[ClipDataset]) -> None:
        self.parts = tuple(parts)
        self.starts = starts_of(np.array([len(part) for part in parts]))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, item: ClipDraw | int) -> Clip:
        """Return a clip; see `ClipDataset`."""
        draw = ClipDraw(0, item) if isinstance(item, int) else item
        part = int(np.searchsorted(self.starts, draw.clip, side="right")) - 1
        return self.parts[part][draw._replace(clip=draw.clip - int(self.starts[part]))]

    def report_bad_frames(self) -> None:
        """Log which frames were skipped since the last report."""
        for part in self.parts:
            part.report_bad_frames()

    def weights(
        self, shares: Sequence[float | int | None], balance_classes: bool = False
    ) -> Float64[np.ndarray, " clips"] | None:
        """Return the relative sampling frequency of each clip; None for uniform sampling.

        Args:
            shares: Relative share of each data set in an epoch. If all are None, each data set has
                its own number of clips.
            balance_classes: Whether to balance classes, see `class_balance`: within each data set
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
    """Whether a value is a finite number above 0; a config may contain anything."""
    if isinstance(share, bool) or not isinstance(share, int | float):
        return False
    return 0 < share < math.inf


def class_balance(
    clips: Int[np.ndarray, " P"], labels: Int[np.ndarray, " P"], num_clips: int
) -> Float64[np.ndarray, " clips"]:
    """Return sampling frequencies of clips that balance the classes.

    The frequencies correspond to drawing a class uniformly, then a clip uniformly among the clips
    that show the class. The total share of clips without objects is unchanged.

    Args:
        clips: Clip of each object in a reference frame.
        labels: Class of each object.
        num_clips: Number of clips.
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
        weights: Non-negative weights, at least one above 0.
        offset: Random number in ``[0, 1)`` that decides which expected counts are rounded up.

    Returns:
        The drawn clips in ascending order, and for each how often it was drawn before.
    """
    number = len(weights)
    ends = np.cumsum(weights)
    ends *= number / ends[-1]
    ends[-1] = number  # exact despite rounding
    counts = np.diff(np.append(0, np.floor(ends + offset).astype(np.int64)))
    firsts = np.cumsum(counts) - counts
    return np.repeat(np.arange(number), counts), np.arange(number) - np.repeat(firsts, counts)
