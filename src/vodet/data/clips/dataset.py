"""The data set of training clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vodet.data.annotations.index import UNKNOWN_TRACK, VideoIndex
from vodet.data.clips.handover import stack_frames
from vodet.data.clips.sampling import (
    ClipDraw,
    ClipSampling,
    clip_generator,
    reference_frames,
)
from vodet.data.frames.frame_reader import FrameReader, OnBadFrame
from vodet.data.frames.images import ExifUse
from vodet.data.frames.resize import OriginalSize
from vodet.data.frames.transforms import ClipTransform
from vodet.errors import DataError
from vodet.stages import FrameResize
from vodet.structures import Clip, FrameInfo

# This many bad clips in a row mean that the images are missing, not that a few files are bad.
MAX_SKIPPED_IN_A_ROW = 100


@dataclass(frozen=True)
class CachedFrames:
    """Maps the frames of a data set to the frames of a candidate cache.

    Args:
        numbers: Number of each frame of the data set in the cache, ``[F]`` int64; -1 for frames
            that are not in the cache.
        sizes: ``(height, width)`` of each frame after resizing, ``[F, 2]``; 0 for bad frames.
    """

    numbers: np.ndarray
    sizes: np.ndarray


class ClipDataset(Dataset[Clip]):
    """A data set of training clips.

    The same `ClipDraw` gives the same clip in every process, whatever was read before. With
    ``on_bad_frame=skip``, a clip with a bad frame is replaced by the next clip without bad frames.

    Args:
        index: The annotations.
        images: The image root: a folder or an fsspec URL.
        sampling: Selects the frames of a clip around a reference frame.
        resize: Resizes frames before the transform.
        transform: Augmentation, with the same random parameters for all frames of a clip.
        clips_per_video: Maximum number of clips per video, whose reference frames are evenly
            spaced; None makes every annotated frame the reference frame of a clip.
        require_complete_tubelets: Whether a clip is replaced by the next one if a track starts or
            ends in its window.
        on_bad_frame: ``raise`` raises an error for a bad frame; ``skip`` skips its clip.
        exif: ``apply`` rotates images by their EXIF orientation; ``ignore`` leaves them as stored.
        seed: Seed of all random choices, combined with the `ClipDraw`.
        cached: If set, no image is read: clips contain the numbers of frames in a candidate cache.

    Raises:
        DataError: If no frame is annotated, or ``require_complete_tubelets`` is set but track ids
            are missing.
    """

    def __init__(
        self,
        index: VideoIndex,
        images: str,
        sampling: ClipSampling,
        *,
        resize: FrameResize | None = None,
        transform: ClipTransform | None = None,
        clips_per_video: int | None = None,
        require_complete_tubelets: bool = False,
        on_bad_frame: OnBadFrame = "raise",
        exif: ExifUse = "apply",
        seed: int = 0,
        cached: CachedFrames | None = None,
    ) -> None:
        self.cached = cached
        self.reader = FrameReader(index, images, resize or OriginalSize(), on_bad_frame, exif)
        self.sampling = sampling
        self.transform = transform or ClipTransform()
        self.seed = seed
        rows = reference_frames(index.video_starts, index.is_annotated, clips_per_video)
        self.references = rows.astype(np.int32)  # small: spawned workers get a copy
        if not len(rows):
            msg = (
                f"{index.source} has no annotated frame, so there is no clip to train on: all its "
                "images have is_annotated=false. Add annotated frames."
            )
            raise DataError(msg)
        self.require_complete_tubelets = require_complete_tubelets
        if require_complete_tubelets and (unknown := _unknown_tracks(index)):
            msg = (
                "data.require_complete_tubelets needs the id_track of every object, except in "
                f"still images; {unknown} of {(~index.iscrowd).sum()} objects in {index.source} "
                "have none. Add the ids, or set data.require_complete_tubelets=false."
            )
            raise DataError(msg)

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, item: ClipDraw | int) -> Clip:
        """Return a clip.

        Args:
            item: The clip to draw, or just its number, which means its first draw in epoch 0.

        Raises:
            FrameError: If a frame is bad and ``on_bad_frame`` is ``raise``.
            DataError: If `MAX_SKIPPED_IN_A_ROW` consecutive clips have bad frames or incomplete
                tubelets.
        """
        draw = ClipDraw(0, item) if isinstance(item, int) else item
        for clip in range(draw.clip, draw.clip + MAX_SKIPPED_IN_A_ROW):
            made = self._make(draw._replace(clip=clip % len(self)))
            if made is not None:
                return made
        if self.require_complete_tubelets:
            msg = (
                f"Found no clip with the same tracks in all frames of its window among "
                f"{MAX_SKIPPED_IN_A_ROW} consecutive clips of {self.reader.index.source}. Use a "
                "shorter window, or set data.require_complete_tubelets=false."
            )
            raise DataError(msg)
        msg = (
            f"Found no clip without a bad frame among {MAX_SKIPPED_IN_A_ROW} consecutive clips of "
            f"{self.reader.index.source}. Are the images below {self.reader.images}?"
        )
        raise DataError(msg)

    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the clips and the classes of all objects in the reference frames.

        Returns:
            For each object, the number of its clip, ``[P]``, and its label, ``[P]``. Crowds and
            ignore regions are left out.
        """
        index = self.reader.index
        lengths = np.diff(index.box_starts)[self.references]
        firsts = np.cumsum(lengths) - lengths
        within = np.arange(lengths.sum()) - np.repeat(firsts, lengths)
        boxes = np.repeat(index.box_starts[self.references], lengths) + within
        clips = np.repeat(np.arange(len(self)), lengths)
        is_object = ~index.iscrowd[boxes]
        return clips[is_object], index.labels[boxes][is_object]

    def frames(self) -> np.ndarray:
        """Return the rows of all frames that can occur in a clip, ascending."""
        index = self.reader.index
        found = np.zeros(index.num_frames, bool)
        for row in self.references.tolist():
            video = index.frames_of(index.video_of(row))
            reach = self.sampling.reach(row - video.start, len(video))
            found[np.array(reach) + video.start] = True
        return np.flatnonzero(found)

    def report_bad_frames(self) -> None:
        """Log how many bad frames were skipped since the last report, and the first errors."""
        self.reader.report_bad_frames()

    def _make(self, draw: ClipDraw) -> Clip | None:
        generator = clip_generator(self.seed, draw)
        clip, layout = self._draw(draw.clip, generator), self.sampling.layout
        window = [clip[position] for position in layout.reference_window]
        if self.require_complete_tubelets and not self._is_complete(window):
            return None
        # A frame that occurs several times, such as at a border, is read and transformed once.
        rows = sorted(set(clip))
        frames = [self._read(row) for row in rows]
        good = [frame for frame in frames if frame is not None]
        if len(good) < len(frames):
            return None
        self.reader.expect_one_size(good, rows)
        targets = [self.reader.target(row) for row in rows]
        images, targets_left = self.transform(good, targets, generator)
        size = images[0].shape[:2]
        infos = [self.reader.info(row, size) for row in rows]
        places = [rows.index(row) for row in clip]
        return Clip(
            frames=self._frames(images, rows, places),
            infos=tuple(self._info(infos[row], clip, n) for n, row in enumerate(places)),
            targets=tuple(targets_left[place] for place in places),
            layout=layout,
        )

    def _read(self, row: int) -> np.ndarray | None:
        """Read a frame; with a cache, return an empty frame of the same size instead."""
        if self.cached is None:
            return self.reader.read_or_record(row)
        height, width = self.cached.sizes[row].tolist()
        if not height:
            self.reader.record_bad(row)
            return None
        return np.broadcast_to(np.zeros((), np.uint8), (height, width, 3))

    def _frames(self, images: Sequence[np.ndarray], rows: list[int], places: list[int]) -> Tensor:
        """Return the pictures of a clip, or the numbers of its frames in the cache."""
        if self.cached is not None:
            return torch.from_numpy(self.cached.numbers[rows][places])
        pictures = torch.empty((len(images), 3, *images[0].shape[:2]), dtype=torch.uint8)
        stack_frames(images, pictures)
        return pictures if places == list(range(len(rows))) else pictures[places]

    def _info(self, info: FrameInfo, clip: list[int], number: int) -> FrameInfo:
        """Return the info of frame ``number`` of a clip, with ``has_loss`` set.

        With ``losses_on=all``, a frame that occurs several times in the clip has a loss only at its
        last occurrence.
        """
        layout = self.sampling.layout
        later = (clip[n] for n in layout.reference_frames if n > number)
        is_repeated = self.sampling.losses_on == "all" and clip[number] in later
        return replace(info, has_loss=not is_repeated)

    def _is_complete(self, window: list[int]) -> bool:
        return len({frozenset(self._tracks(row)) for row in window}) == 1

    def _tracks(self, row: int) -> list[int]:
        """Return the track ids of the objects of a frame, without crowds and ignore regions."""
        index = self.reader.index
        boxes = index.boxes_of(row)
        tracks: list[int] = index.track_ids[boxes][~index.iscrowd[boxes]].tolist()
        return tracks

    def _draw(self, clip: int, generator: np.random.Generator) -> list[int]:
        """Draw the frames of a clip, and return their rows in the index."""
        row = int(self.references[clip])
        video = self.reader.index.frames_of(self.reader.index.video_of(row))
        positions = self.sampling.draw(row - video.start, len(video), generator)
        return [video[position] for position in positions]


def _unknown_tracks(index: VideoIndex) -> int:
    """Count the objects without a track id, except objects in videos of one frame."""
    is_still = np.diff(index.video_starts) == 1
    lengths = np.diff(index.box_starts)
    needed = np.repeat(np.repeat(~is_still, np.diff(index.video_starts)), lengths)
    return int(((index.track_ids == UNKNOWN_TRACK) & ~index.iscrowd & needed).sum())
