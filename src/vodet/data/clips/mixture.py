"""Several data sets to train on as one: which part of an epoch each has, and each class."""

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
    """The clips of several data sets, numbered one set after the other.

    Args:
        parts: The sets, with the same labels; at least one.
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
        """Return how often each clip is wanted, in proportion; None for all alike.

        Args:
            shares: The part of an epoch's clips that each set has, in proportion. None for all of
                them leaves each as many as it has.
            balance_classes: Whether classes are wanted alike, see `class_balance`: within each set
                where there are shares, else over all.

        Raises:
            ConfigError: If some sets have a share and others none, or one is no number above 0.
        """
        known = [share for share in shares if share is not None]
        if known and not all(map(_is_share, shares)):
            msg = (
                "Expected a share, a number above 0, for every set to train on (data.train.share, "
                f"data.extra_train.NAME.share) or for none, found {list(shares)}."
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
    """Say whether it is a number above 0; a config may hold anything."""
    if isinstance(share, bool) or not isinstance(share, int | float):
        return False
    return 0 < share < math.inf


def class_balance(
    clips: Int[np.ndarray, " P"], labels: Int[np.ndarray, " P"], num_clips: int
) -> Float64[np.ndarray, " clips"]:
    """Return how often clips are wanted so that every class is wanted alike.

    As if a class were drawn, each as likely as any other, and then one of the clips that show it.
    Clips without an object keep the share that they have.

    Args:
        clips: A clip that shows an object in its reference frame.
        labels: The class of the object.
        num_clips: Number of clips; weights are for 0, 1, 2, ...
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
    """Draw as many clips as there are, in proportion to weights, by systematic sampling.

    Each clip is drawn as often as expected, up to rounding: no clip that is expected 1.3 times is
    drawn less than once or more than twice.

    Args:
        weights: Not negative, some above 0.
        offset: From 0 to below 1; decides which expectations are rounded up.

    Returns:
        The clips drawn, ascending, and how often each has been drawn before.
    """
    number = len(weights)
    ends = np.cumsum(weights)
    ends *= number / ends[-1]
    ends[-1] = number  # whatever rounding has made of it
    counts = np.diff(np.append(0, np.floor(ends + offset).astype(np.int64)))
    firsts = np.cumsum(counts) - counts
    return np.repeat(np.arange(number), counts), np.arange(number) - np.repeat(firsts, counts)
