"""Who gets what: clips and videos dealt to the processes of a distributed run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from vodet.data.clips.mixture import draw_clips
from vodet.data.clips.sampling import ClipDraw
from vodet.data.clips.video_chunks import NO_VIDEO
from vodet.errors import DataError


class ClipSampler(Sampler[ClipDraw]):
    """Shuffled clips, the same number of different draws for each process.

    Where the clips do not divide among the processes, the rest of fewer than ``world_size`` is
    left out of the epoch; each epoch leaves out others. Items carry the epoch: so workers know it,
    also those that live on from one to the next.

    Args:
        num_clips: Number of clips of the data set, and of an epoch.
        weights: How often each clip is wanted, in proportion (see `draw_clips`); None draws each
            once.
        rank: Number of this process.
        world_size: Number of processes.
        seed: Decides, with the epoch, the order.

    Raises:
        DataError: If there are fewer clips than processes.
    """

    def __init__(
        self,
        num_clips: int,
        *,
        weights: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        if num_clips < world_size:
            msg = (
                f"Training in {world_size} processes needs at least as many clips, found "
                f"{num_clips}. Use at most {num_clips} devices."
            )
            raise DataError(msg)
        self.num_clips = num_clips
        self.weights = weights
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning does before each, also when it resumes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_clips // self.world_size

    def __iter__(self) -> Iterator[ClipDraw]:
        generator = np.random.default_rng([self.seed, self.epoch])
        clips, repeats = np.arange(self.num_clips), np.zeros(self.num_clips, np.int64)
        if self.weights is not None:
            clips, repeats = draw_clips(self.weights, generator.random())
        order = generator.permutation(self.num_clips)
        own = order[self.rank :: self.world_size][: len(self)]
        pairs = zip(clips[own].tolist(), repeats[own].tolist(), strict=True)
        return (ClipDraw(self.epoch, clip, repeat) for clip, repeat in pairs)


def deal_videos(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Deal videos to processes, whole, so that these get about equally many frames.

    The longest video left goes to the process with the fewest frames so far: no process gets more
    than 4/3 of the least possible maximum (R. L. Graham, 1969).

    Args:
        lengths: Number of frames of each video.
        world_size: Number of processes.

    Returns:
        Positions of the videos of each process, ascending; none for a process too many.
    """
    hands: list[list[int]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for video in sorted(range(len(lengths)), key=lambda video: -lengths[video]):
        lightest = loads.index(min(loads))
        hands[lightest].append(video)
        loads[lightest] += lengths[video]
    return [sorted(hand) for hand in hands]


class WholeVideoSampler(Sampler[int]):
    """Chunks of the videos of one process, in order; -1 alone where it has no video.

    Args:
        lengths: Number of frames of each video.
        chunks_of_video: Numbers of the chunks of each video.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        chunks_of_video: Sequence[range],
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        videos = deal_videos(lengths, world_size)[rank]
        self.chunks = [chunk for video in videos for chunk in chunks_of_video[video]] or [NO_VIDEO]

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[int]:
        return iter(self.chunks)
