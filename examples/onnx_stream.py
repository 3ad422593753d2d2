"""Runs a detector that vodet-export wrote on a video, with ONNX Runtime and without PyTorch.

python onnx_stream.py FOLDER VIDEO: prints the boxes (in pixels), scores and labels of each frame.
"""

import json
import sys
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np
from onnxruntime import InferenceSession, get_available_providers


def resized(frame, height, width, keeps_aspect_ratio, video, picture):
    """Return a frame as input [1, 3, height, width], and the size [1, 2] of the picture in it."""
    sides = np.array(frame.shape[:2])
    scale = np.array([height, width]) / sides
    size = np.rint(sides * (scale.min() if keeps_aspect_ratio else scale)).astype(np.int64)
    size = np.array(picture) if sides.tolist() == video else size
    frame = cv2.resize(frame, np.minimum(size, sides)[::-1], interpolation=cv2.INTER_AREA)
    frame = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)
    padded = np.pad(frame, ((0, height - size[0]), (0, width - size[1]), (0, 0)))
    return padded.transpose(2, 0, 1)[None], size[None]


def stream(folder, frames):
    """Yield the detections of each frame, in order."""
    about = json.loads((folder / "vodet.json").read_text(encoding="utf-8"))
    window, memory, kept = about["window"], dict(np.load(folder / about["begin"])), {}

    def program(name):
        path, outputs = folder / about[name]["file"], [o["name"] for o in about[name]["outputs"]]
        session = InferenceSession(path, providers=get_available_providers())
        return lambda inputs: dict(zip(outputs, session.run(outputs, inputs)))

    encode, step = program("encode"), program("step")
    for number, frame in enumerate(chain(frames, [None] * window[-1]), -window[-1]):
        if frame is not None:
            pixels, size = resized(frame, **about["frame"])
            last, ratio = number + window[-1], np.tile((frame.shape[:2] / size[0])[::-1], 2)
            kept[last] = encode({"frame": pixels, "size": size})
        if number < 0:
            continue
        rows = [kept[min(max(number + offset, 0), last)] for offset in window]
        encodings = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        found = step(encodings | memory)
        memory = {name: found[after] for name, after in about["memory"].items()}
        kept.pop(number + window[0], None)  # no later window contains it
        own, found["boxes"] = found["scores"] > 0, found["boxes"] * ratio
        yield {name: found[name][own] for name in ("boxes", "scores", "labels")}


if __name__ == "__main__":
    video = av.open(sys.argv[2]).decode(video=0)
    for found in stream(Path(sys.argv[1]), (frame.to_ndarray(format="rgb24") for frame in video)):
        print(json.dumps({name: values.tolist() for name, values in found.items()}))
