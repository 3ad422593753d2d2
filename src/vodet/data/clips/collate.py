"""Collates clips into batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from vodet.data.clips.handover import empty_frames
from vodet.structures import Clip, ClipBatch, Size


def collate_clips(clips: Sequence[Clip], size_divisor: int = 1) -> ClipBatch:
    """Combine clips into a batch, padding frames with black at the right and bottom.

    Args:
        clips: At least one clip; all clips have the same layout.
        size_divisor: The height and width of the batch are multiples of this number of pixels.
    """
    return ClipBatch(
        frames=_join(clips, size_divisor),
        infos=tuple(clip.infos for clip in clips),
        targets=tuple(clip.targets for clip in clips),
        layout=clips[0].layout,
    )


def padded_size(sizes: Iterable[Size], divisor: int) -> Size:
    """Return the smallest size that holds all sizes, with sides divisible by ``divisor``."""
    heights, widths = zip(*sizes, strict=True)
    return _round_up(max(heights), divisor), _round_up(max(widths), divisor)


def _round_up(length: int, divisor: int) -> int:
    return -(-length // divisor) * divisor


def _join(
    clips: Sequence[Clip], size_divisor: int
) -> UInt8[Tensor, "B T 3 H W"] | Int64[Tensor, "B T"]:
    if clips[0].frames.ndim == 1:
        return torch.stack([clip.frames for clip in clips])
    size = padded_size(((*clip.frames.shape[-2:],) for clip in clips), size_divisor)
    frames = empty_frames(len(clips), len(clips[0].frames), 3, *size)
    for pictures, clip in zip(frames, clips, strict=True):
        height, width = clip.frames.shape[-2:]
        pictures[..., :height, :width] = clip.frames
        pictures[..., :height, width:] = 0
        pictures[..., height:, :] = 0
    return frames
