"""Draw the detections of one or more checkpoints on their validation videos.

If the output ends in .mp4, it is a video with one row per checkpoint. Otherwise, it is an image of
consecutive frames, also with one row per checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

import vodet
from vodet.data.frames.images import image_path, read_frame
from vodet.inference.writing import VideoWriter
from vodet.structures import Detections
from vodet.tasks.checkpoint import CARD_KEY, read_checkpoint

ENLARGE = 3
GAP = 6


def drawn(frame: np.ndarray, found: Detections, class_names: tuple[str, ...]) -> np.ndarray:
    """Draw detections on an enlarged frame with a white margin."""
    large = cv2.resize(frame, None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_CUBIC)
    picture = vodet.draw(large, {**found, "boxes": found["boxes"] * ENLARGE}, class_names)
    return np.pad(picture, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def drawn_videos(checkpoint: Path, options: argparse.Namespace) -> Iterator[np.ndarray]:
    """Yield the frames of the chosen videos with the detections of a checkpoint."""
    config = read_checkpoint(checkpoint)[CARD_KEY]["config"]["data"]
    data, exif = config["val"], config.get("exif", "apply")
    index = vodet.read_st_coco(data["annotations"])
    detector = vodet.load(checkpoint)
    stream = vodet.StreamingDetector(detector, score_threshold=options.score_threshold)
    for video in range(options.video, min(options.video + options.videos, index.num_videos)):
        frames = []
        for row in index.frames_of(video):
            path = image_path(data["images"], index.file_name(row))
            height, width = index.sizes[row].tolist()
            image_id = int(index.image_ids[row])
            frames.append(read_frame(path, image_id, (height, width), exif=exif))
        results = stream.push(np.stack(frames)) + stream.flush()
        for frame, result in zip(frames, results, strict=True):
            yield drawn(frame, result.detections, detector.class_names)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--video", type=int, default=0, help="index of the first video")
    parser.add_argument("--videos", type=int, default=6, help="number of videos in an .mp4")
    parser.add_argument("--first", type=int, default=0, help="first frame of an image")
    parser.add_argument("--frames", type=int, default=4, help="number of frames in an image")
    parser.add_argument("--score-threshold", type=float, default=0.3)
    options = parser.parse_args()

    videos = [drawn_videos(checkpoint, options) for checkpoint in options.checkpoints]
    stacked = (np.vstack(rows) for rows in zip(*videos, strict=True))
    if options.output.suffix == ".mp4":
        with VideoWriter(options.output, fps=8) as writer:
            for frame in stacked:
                writer.write(frame)
    else:
        frames = list(islice(stacked, options.first, options.first + options.frames))
        picture = cv2.cvtColor(np.hstack(frames), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(options.output), picture)


if __name__ == "__main__":
    main()
