"""Collates clips into batches."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import UInt8
from torch import Tensor

from vodet.data.clips.handover import empty_frames
from vodet.structures import Clip, ClipBatch, Size


def collate_clips(clips: Sequence[Clip], size_divisor: int = 1) -> ClipBatch:
    """Combine clips into a batch, padding frames with black at the right and bottom.

    Args:
        clips: At least one clip; all clips have the same layout.
        size_divisor: The height and width of the batch are multiples of this number of pixels.
    """
    heights, widths = zip(*(clip.frames.shape[-2:] for clip in clips), strict=True)
    size = _round_up(max(heights), size_divisor), _round_up(max(widths), size_divisor)
    return ClipBatch(
        frames=_join(clips, size),
        infos=tuple(clip.infos for clip in clips),
        targets=tuple(clip.targets for clip in clips),
        layout=clips[0].layout,
    )


def _round_up(length: int, divisor: int) -> int:
    return -(-length // divisor) * divisor


def _join(clips: Sequence[Clip], size: Size) -> UInt8[Tensor, "B T 3 H W"]:
    frames = empty_frames(len(clips), len(clips[0].frames), 3, *size)
    for pictures, clip in zip(frames, clips, strict=True):
        height, width = clip.frames.shape[-2:]
        pictures[..., :height, :width] = clip.frames
        pictures[..., :height, width:] = 0
        pictures[..., height:, :] = 0
    return frames
