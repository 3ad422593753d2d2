"""Reusable shared memory in which a worker hands frames to the main process.

The kernel clears every page of new memory; for frames this takes a fifth of the time of decoding
them. A worker therefore keeps its shared memory in slots, and reuses a slot once the main process
has freed all tensors in it. The last byte of a slot says whether the slot is in use.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import get_worker_info

from vodet.structures import ClipBatch, VideoChunk

# A loader holds fewer batches of one worker at a time. If all slots are in use, a new slot takes
# the place of the oldest, which is then not reused.
MAX_SLOTS = 16
_slots: list[Tensor] = []  # the slots of this process


def empty_frames(*shape: int) -> Tensor:
    """Return uint8 memory for frames; in a worker, it is shared and handed over without a copy."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    length = math.prod(shape)
    slot = next((slot for slot in _slots if len(slot) > length and not slot[-1]), None)
    if slot is None:
        slot = torch.zeros(length + 1, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]  # torch gives it no types
        taken = [slot for slot in _slots if slot[-1]]  # slots not in use are too small
        _slots[:] = [*taken[1 - MAX_SLOTS :], slot]
    slot[-1] = 1
    return slot[:length].view(shape)


def stack_frames(frames: Sequence[np.ndarray], out: UInt8[Tensor, "n 3 h w"]) -> Tensor:
    """Write frames ``[H, W, 3]`` into ``out``; OpenCV's split is faster than transposing."""
    for planes, frame in zip(out.numpy(), frames, strict=True):
        cv2.split(frame, list(planes))
    return out


def _is_in_slot(frames: Tensor) -> bool:
    return any(slot.data_ptr() == frames.data_ptr() for slot in _slots)


def _receive(frames: Tensor, is_in_slot: bool) -> Tensor:
    """Mark the slot as free once the frames are freed, since torch then drops ``array``."""
    if not is_in_slot:
        return frames
    slot = torch.empty(0, dtype=torch.uint8).set_(frames.untyped_storage())
    array = frames.numpy()
    weakref.finalize(array, slot.numpy()[-1:].fill, 0).atexit = False
    return torch.from_numpy(array)


def _map_targets(targets: Any, function: Any) -> Any:
    return tuple(
        tuple({key: function(value) for key, value in target.items()} for target in clip)
        for clip in targets
    )


def _rebuild_batch(
    frames: Tensor, is_in_slot: bool, infos: Any, targets: Any, *others: Any
) -> ClipBatch:
    targets = _map_targets(targets, torch.from_numpy)
    return ClipBatch(_receive(frames, is_in_slot), infos, targets, *others)


def _reduce_batch(batch: ClipBatch) -> tuple[Any, ...]:
    # torch sends each tensor in its own shared memory file. For the hundreds of small tensors in
    # the targets, this would take as long as decoding the frames. Arrays are sent by value.
    targets = _map_targets(batch.targets, Tensor.numpy)
    others = (batch.infos, targets, batch.layout)
    return _rebuild_batch, (batch.frames, _is_in_slot(batch.frames), *others)


def _rebuild_chunk(frames: Tensor, is_in_slot: bool, *others: Any) -> VideoChunk:
    return VideoChunk(_receive(frames, is_in_slot), *others)


def _reduce_chunk(chunk: VideoChunk) -> tuple[Any, ...]:
    others = (chunk.infos, chunk.is_first, chunk.is_last)
    return _rebuild_chunk, (chunk.frames, _is_in_slot(chunk.frames), *others)


ForkingPickler.register(ClipBatch, _reduce_batch)
ForkingPickler.register(VideoChunk, _reduce_chunk)
