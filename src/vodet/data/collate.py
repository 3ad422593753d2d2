"""Clips to batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import default_collate

from vodet.structures import Clip, ClipBatch, Size


def collate_clips(clips: Sequence[Clip], size_divisor: int = 1) -> ClipBatch:
    """Join clips of equal length, padding pictures with black at the right and the bottom.

    Args:
        clips: At least one; all with the same number of frames and of memory windows.
        size_divisor: Height and width of the batch are multiples of it.
    """
    heights, widths = zip(*(clip.frames.shape[-2:] for clip in clips), strict=True)
    size = _round_up(max(heights), size_divisor), _round_up(max(widths), size_divisor)
    windows = zip(*(clip.memory_windows for clip in clips), strict=True)
    return ClipBatch(
        # In a worker this joins them in shared memory, which saves a copy.
        frames=default_collate([_pad(clip.frames, size) for clip in clips]),
        infos=tuple(clip.infos for clip in clips),
        targets=tuple(clip.targets for clip in clips),
        reference=clips[0].reference,
        memory_windows=tuple(collate_clips(window, size_divisor) for window in windows),
    )


def _round_up(length: int, divisor: int) -> int:
    return -(-length // divisor) * divisor


def _pad(frames: Tensor, size: Size) -> Tensor:
    missing = size[0] - frames.shape[-2], size[1] - frames.shape[-1]
    return pad(frames, (0, missing[1], 0, missing[0])) if any(missing) else frames


def _map_targets(targets: Any, function: Callable[[Any], Any]) -> Any:
    return tuple(
        tuple({key: function(value) for key, value in target.items()} for target in clip)
        for clip in targets
    )


def _rebuild(frames: Tensor, infos: Any, targets: Any, *others: Any) -> ClipBatch:
    return ClipBatch(frames, infos, _map_targets(targets, torch.from_numpy), *others)


def _reduce(batch: ClipBatch) -> tuple[Any, ...]:
    targets = _map_targets(batch.targets, Tensor.numpy)
    return _rebuild, (batch.frames, batch.infos, targets, batch.reference, batch.memory_windows)


# A worker hands over each tensor as a shared memory file of its own. For the hundreds of small
# ones of the targets that costs as much as decoding the frames; as arrays they go by value.
ForkingPickler.register(ClipBatch, _reduce)
