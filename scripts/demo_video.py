"""Write some validation videos of the demo, with detections, into one MP4."""

from __future__ import annotations

import argparse

import cv2
import numpy as np
from vodet.inference.writing import VideoWriter

import vodet
from vodet.data.frames import image_path, read_frame
from vodet.structures import Detections
from vodet.tasks.checkpoint import CARD_KEY, read_checkpoint

ENLARGE = 3


def drawn(frame: np.ndarray, found: Detections, class_names: tuple[str, ...]) -> np.ndarray:
    """Draw detections on an enlarged frame."""
    large = cv2.resize(frame, None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_CUBIC)
    return vodet.draw_detections(
        large,
        found["boxes"].numpy() * ENLARGE,
        found["labels"].numpy(),
        class_names,
        scores=found["scores"].numpy(),
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("output")
    parser.add_argument("--videos", type=int, default=6)
    parser.add_argument("--score-threshold", type=float, default=0.3)
    options = parser.parse_args()

    detector = vodet.load(options.checkpoint)
    data = read_checkpoint(options.checkpoint)[CARD_KEY]["config"]["data"]["val"]
    index = vodet.read_st_coco(data["annotations"])
    stream = vodet.StreamingDetector(detector, score_threshold=options.score_threshold)
    with VideoWriter(options.output, fps=8) as video:
        for number in range(min(options.videos, index.num_videos)):
            frames = [
                read_frame(
                    image_path(data["images"], index.file_name(row)),
                    int(index.image_ids[row]),
                    tuple(index.sizes[row].tolist()),
                )
                for row in index.frames_of(number)
            ]
            answers = stream.push(np.stack(frames)) + stream.flush()
            for frame, answer in zip(frames, answers, strict=True):
                video.write(drawn(frame, answer.detections, index.class_names))


if __name__ == "__main__":
    main()
