"""The data set of video chunks for evaluation."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from vodet.data.annotations.index import VideoIndex
from vodet.data.clips.handover import empty_frames, stack_frames
from vodet.data.frames.frame_reader import FrameReader, OnBadFrame
from vodet.data.frames.images import ExifUse
from vodet.data.frames.resize import OriginalSize
from vodet.stages import FrameResize
from vodet.structures import GroundTruth, VideoChunk

NO_VIDEO = -1


class VideoChunkDataset(Dataset[VideoChunk]):
    """A data set for evaluation, whose elements are chunks of consecutive frames of a video.

    Index -1 gives an empty chunk. With ``on_bad_frame=skip``, a bad frame is replaced by the last
    good frame before it or, if there is none, by a black frame, so that the timing of the frames
    does not change. Its ``FrameInfo`` says that it is not annotated: its detections are not
    evaluated, and its objects count as missed.

    Args:
        index: The annotations.
        images: The image root: a folder or an fsspec URL.
        resize: Resizes frames to the evaluation size.
        chunk_size: Maximum number of frames per chunk.
        on_bad_frame: ``raise`` raises an error for a bad frame; ``skip`` replaces the frame.
        exif: ``apply`` rotates images by their EXIF orientation; ``ignore`` leaves them as stored.
    """

    def __init__(
        self,
        index: VideoIndex,
        images: str,
        *,
        resize: FrameResize | None = None,
        chunk_size: int = 8,
        on_bad_frame: OnBadFrame = "raise",
        exif: ExifUse = "apply",
    ) -> None:
        self.reader = FrameReader(index, images, resize or OriginalSize(), on_bad_frame, exif)
        self.video_lengths: list[int] = np.diff(index.video_starts).tolist()
        self.chunks: list[range] = []
        self.chunks_of_video: list[range] = []
        for video in range(index.num_videos):
            frames = index.frames_of(video)
            first = len(self.chunks)
            self.chunks += [
                frames[start : start + chunk_size] for start in range(0, len(frames), chunk_size)
            ]
            self.chunks_of_video.append(range(first, len(self.chunks)))

    @property
    def ground_truth(self) -> GroundTruth:
        """The ground truth for the evaluation: the annotations of all annotated frames."""
        return self.reader.index.ground_truth()

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, chunk: int) -> VideoChunk:
        """Return the chunk at an index; -1 gives an empty chunk.

        Raises:
            FrameError: If a frame is bad and ``on_bad_frame`` is ``raise``, or if the frames of the
                chunk differ in size after resizing.
        """
        if chunk == NO_VIDEO:
            return VideoChunk(torch.zeros(0, 3, 1, 1, dtype=torch.uint8), (), True, True)
        rows = self.chunks[chunk]
        video = self.reader.index.frames_of(self.reader.index.video_of(rows.start))
        frames: list[np.ndarray] = []
        infos = []
        for row in rows:
            frame = self.reader.read_or_record(row)
            infos.append(self.reader.info(row, is_known=frame is not None))
            if frame is None:
                frame = frames[-1] if frames else self._stand_in(range(video.start, row))
            frames.append(frame)
        self.reader.expect_one_size(frames, rows)
        return VideoChunk(
            frames=stack_frames(frames, empty_frames(len(frames), 3, *frames[0].shape[:2])),
            infos=tuple(infos),
            is_first=rows.start == video.start,
            is_last=rows.stop == video.stop,
        )

    def report_bad_frames(self) -> None:
        """Log how many bad frames were skipped since the last report, and the first errors."""
        self.reader.report_bad_frames()

    def _stand_in(self, earlier: range) -> np.ndarray:
        """Return the last good frame in the rows ``earlier``, or a black frame if there is none."""
        for row in reversed(earlier):
            frame = self.reader.read_or_record(row)
            if frame is not None:
                return frame
        return self.reader.resize(np.zeros((*self.reader.size(earlier.stop), 3), np.uint8))
