"""Which clips and videos each process of a distributed run gets.

The samplers ask for the process when they are iterated, not when they are made: a loader that was
made before the trainer started its processes serves each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import distributed
from torch.utils.data import Sampler

from vodet.data.clips.mixture import draw_clips
from vodet.data.clips.sampling import ClipDraw
from vodet.data.clips.video_chunks import NO_VIDEO, VideoChunkDataset
from vodet.errors import DataError


def process_of(rank: int | None = None, world_size: int | None = None) -> tuple[int, int]:
    """Return rank and number of processes as given, else as torch.distributed knows them."""
    if rank is not None and world_size is not None:
        return rank, world_size
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class ClipSampler(Sampler[ClipDraw]):
    """Shuffled clips, the same number of different draws for each process.

    Where the clips do not divide among the processes, the rest of fewer than ``world_size`` is
    left out of the epoch; each epoch leaves out others. Items carry the epoch: so workers know it,
    also those that live on from one to the next.

    Args:
        num_clips: Number of clips of the data set, and of an epoch.
        weights: How often each clip is wanted, in proportion (see `draw_clips`); None draws each
            once.
        rank: Number of the process; None, as ``world_size``, means the one that iterates.
        world_size: Number of processes.
        seed: Decides, with the epoch, the order.
    """

    def __init__(
        self,
        num_clips: int,
        *,
        weights: np.ndarray | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        seed: int = 0,
    ) -> None:
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
        """Return the number of clips of each process.

        Raises:
            DataError: If there are fewer clips than processes.
        """
        _, world_size = process_of(self.rank, self.world_size)
        if self.num_clips < world_size:
            msg = (
                f"Training in {world_size} processes needs at least as many clips, found "
                f"{self.num_clips}. Use at most {self.num_clips} devices."
            )
            raise DataError(msg)
        return self.num_clips // world_size

    def __iter__(self) -> Iterator[ClipDraw]:
        rank, world_size = process_of(self.rank, self.world_size)
        generator = np.random.default_rng([self.seed, self.epoch])
        clips, repeats = np.arange(self.num_clips), np.zeros(self.num_clips, np.int64)
        if self.weights is not None:
            clips, repeats = draw_clips(self.weights, generator.random())
        order = generator.permutation(self.num_clips)
        own = order[rank::world_size][: len(self)]
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
        dataset: The videos.
        rank: Number of the process; None, as ``world_size``, means the one that iterates.
        world_size: Number of processes.

    Example:
        ::

            dataset = VideoChunkDataset(index, "frames")
            loader = DataLoader(dataset, sampler=WholeVideoSampler(dataset), batch_size=None)
    """

    def __init__(
        self,
        dataset: VideoChunkDataset,
        *,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.dataset = dataset
        self.rank = rank
        self.world_size = world_size

    @property
    def chunks(self) -> list[int]:
        """Numbers of the chunks of the process."""
        rank, world_size = process_of(self.rank, self.world_size)
        videos = deal_videos(self.dataset.video_lengths, world_size)[rank]
        own = [chunk for video in videos for chunk in self.dataset.chunks_of_video[video]]
        return own or [NO_VIDEO]

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[int]:
        return iter(self.chunks)
