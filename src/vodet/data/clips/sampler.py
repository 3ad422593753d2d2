"""Divides clips and videos among the processes of a distributed run.

The samplers determine the process when they are iterated, not when they are created, so a loader
can be created before the trainer starts its processes.
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
    """Return the rank of this process and the number of processes.

    They are the arguments or, if one of them is None, the values of torch.distributed. Without
    torch.distributed, they are 0 and 1.
    """
    if rank is not None and world_size is not None:
        return rank, world_size
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class ClipSampler(Sampler[ClipDraw]):
    """Draws training clips in random order; all processes get the same number of clips.

    No two processes get the same draw. If the number of clips is not a multiple of ``world_size``,
    the remaining clips are left out; they differ from epoch to epoch. Each draw includes the epoch,
    which persistent workers could not know otherwise.

    Args:
        num_clips: Number of clips in the data set, and number of draws in an epoch.
        weights: Sampling weight of each clip (see `draw_clips`); None draws each clip once.
        rank: Rank of the process. If ``rank`` or ``world_size`` is None, both are taken from
            torch.distributed when the sampler is iterated.
        world_size: Number of processes.
        seed: Seed of the order, combined with the epoch.
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
        """Set the epoch; Lightning calls this before each epoch, also after resuming."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of clips that each process draws in an epoch.

        Raises:
            DataError: If there are fewer clips than processes.
        """
        _, world_size = process_of(self.rank, self.world_size)
        if self.num_clips < world_size:
            msg = (
                f"Training in {world_size} processes needs at least {world_size} clips, found "
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


def shard_videos(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """Distribute whole videos among processes with about equal numbers of frames.

    Videos are assigned from the longest to the shortest, each to the process that then has the
    fewest frames. The process with the most frames then has at most 4/3 times as many as in the
    best possible distribution (R. L. Graham, 1969).

    Args:
        lengths: Number of frames of each video.
        world_size: Number of processes.

    Returns:
        For each process, the indices of its videos in ascending order; an empty list for a process
        without a video.
    """
    shards: list[list[int]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for video in sorted(range(len(lengths)), key=lambda video: -lengths[video]):
        lightest = loads.index(min(loads))
        shards[lightest].append(video)
        loads[lightest] += lengths[video]
    return [sorted(shard) for shard in shards]


class WholeVideoSampler(Sampler[int]):
    """Yields the indices of the chunks of all videos of one process, in order.

    A process without a video gets the index -1, for which the data set returns an empty chunk.

    Args:
        dataset: The chunks of all videos.
        rank: Rank of the process. If ``rank`` or ``world_size`` is None, both are taken from
            torch.distributed when the sampler is iterated.
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
        """Indices of the chunks of this process, or ``[-1]`` if it has no video."""
        rank, world_size = process_of(self.rank, self.world_size)
        videos = shard_videos(self.dataset.video_lengths, world_size)[rank]
        own = [chunk for video in videos for chunk in self.dataset.chunks_of_video[video]]
        return own or [NO_VIDEO]

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[int]:
        return iter(self.chunks)
