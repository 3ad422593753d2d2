"""The frames of all training clips, each once, for a candidate cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vodet.data.clips.collate import padded_size
from vodet.data.clips.dataset import CachedFrames, ClipDataset
from vodet.data.clips.handover import stack_frames
from vodet.data.frames.images import image_path

_URL = "://"


class TrainingFrames(Dataset[tuple[Tensor, Tensor]]):
    """Frames ``[3, H, W]`` uint8 RGB of the same size, each with its size before padding, ``[2]``.

    Frames are padded with black at the right and bottom to the size of the largest frame. If a bad
    frame is skipped, its pixels are black and its size is 0.

    Args:
        parts: The training data.
        size_divisor: Frames are padded so that height and width are multiples of this number.
    """

    def __init__(self, parts: Sequence[ClipDataset], size_divisor: int = 1) -> None:
        self.parts = tuple(parts)
        rows = [part.frames() for part in self.parts]
        self.rows = np.concatenate(rows)
        self.part_of_frame = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
        sizes = [
            part.reader.size_after_resizing(int(own[first]))
            for part, own in zip(self.parts, rows, strict=True)
            for first in np.unique(part.reader.index.sizes[own], axis=0, return_index=True)[1]
        ]
        self.size = padded_size(sizes, size_divisor)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return a frame.

        Raises:
            FrameError: If the frame is bad and ``on_bad_frame`` is ``raise``.
        """
        frame = torch.zeros(3, *self.size, dtype=torch.uint8)
        reader = self.parts[self.part_of_frame[number]].reader
        picture = reader.read_or_record(int(self.rows[number]))
        if picture is None:
            return frame, torch.zeros(2, dtype=torch.int64)
        height, width = picture.shape[:2]
        own = torch.empty(1, 3, height, width, dtype=torch.uint8)
        frame[:, :height, :width] = stack_frames([picture], own)[0]
        return frame, torch.tensor([height, width])

    def report_bad_frames(self) -> None:
        """Log how many bad frames were skipped since the last report, and the first errors."""
        for part in self.parts:
            part.report_bad_frames()

    def cached(self, sizes: np.ndarray) -> list[CachedFrames]:
        """Return the frames of each part in a cache of all frames.

        Args:
            sizes: ``(height, width)`` of each frame in the cache.
        """
        found = []
        for number, part in enumerate(self.parts):
            own = np.flatnonzero(self.part_of_frame == number)
            count = part.reader.index.num_frames
            numbers, own_sizes = np.full(count, -1, np.int64), np.zeros((count, 2), np.int64)
            numbers[self.rows[own]] = own
            own_sizes[self.rows[own]] = sizes[own]
            found.append(CachedFrames(numbers, own_sizes))
        return found

    def fingerprint(self) -> str:
        """Return a hash of the names of the images, their sizes in pixels and in bytes.

        Images behind a URL have no size in bytes; their URL counts.
        """
        content = hashlib.sha256()
        places = self.part_of_frame.tolist(), self.rows.tolist()
        for part, row in zip(*places, strict=True):
            reader = self.parts[part].reader
            name = reader.index.file_name(row)
            path = image_path(reader.images, name)
            length = path if _URL in path else _length(path)
            content.update(repr((name, *reader.size(row), length)).encode())
        return content.hexdigest()


def _length(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  called for every image, and a Path is slower
    except (OSError, ValueError):  # reported when the frame is read
        return -1
