"""Shared memory in which data loader workers pass frames to the main process.

The kernel clears every page of new memory, which takes a fifth as long as decoding the frames. A
worker therefore keeps up to `MAX_SLOTS` blocks of shared memory, called slots, and reuses a slot
once the main process has freed all tensors in it. The last byte of a slot is 1 while it is in use.
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

# A loader holds fewer batches of one worker than this at a time. If all slots are in use, a new
# slot replaces the oldest slot in the list, which is then not reused.
MAX_SLOTS = 16
_slots: list[Tensor] = []  # the slots of this process


def empty_frames(*shape: int) -> Tensor:
    """Return an uninitialised uint8 tensor for frames.

    In a data loader worker, the tensor is in shared memory, so that it reaches the main process
    without a copy.
    """
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
    """Copy frames ``[H, W, 3]`` into ``out``, channel by channel, and return ``out``.

    OpenCV's split is faster than transposing.
    """
    for planes, frame in zip(out.numpy(), frames, strict=True):
        cv2.split(frame, list(planes))
    return out


def _is_in_slot(frames: Tensor) -> bool:
    return any(slot.data_ptr() == frames.data_ptr() for slot in _slots)


def _receive(frames: Tensor, is_in_slot: bool) -> Tensor:
    """Return the frames in the main process, and mark their slot as free once they are freed.

    The tensor that is returned keeps ``array`` alive, so the finalizer runs when it is freed.
    """
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
