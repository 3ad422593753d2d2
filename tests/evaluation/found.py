"""A data set of which a tiny detector finds something, for the tests of evaluations."""

from __future__ import annotations

import json
from pathlib import Path

from tiny import fusion_of, tiny_detector
from vodet.data.annotations.source import Source
from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.clips.datamodule import ClipDataModule
from vodet.data.clips.video_chunks import VideoChunkDataset
from vodet.data.generated.scenes import CLASS_NAMES
from vodet.data.generated.sets import generate
from vodet.data.generated.synthetic import SyntheticConfig
from vodet.detector import VideoDetector
from vodet.streaming import StreamingDetector
from vodet.structures import Detections, Window


def detector(class_names: tuple[str, ...] = CLASS_NAMES) -> VideoDetector:
    return tiny_detector(fusion_of("mean"), Window(past=1, future=1), class_names)


def chunks_of(source: Source, **options) -> VideoChunkDataset:
    return VideoChunkDataset(read_st_coco(source.annotations), source.images, **options)


def found_in(dataset: VideoChunkDataset) -> dict[int, Detections]:
    """What a stream finds, by image id."""
    found = {}
    for chunks in dataset.chunks_of_video:
        stream, infos, results = StreamingDetector(detector()), [], []
        for chunk in map(dataset.__getitem__, chunks):
            infos += chunk.infos
            results += stream.push_resized(chunk.frames, (64, 64), (64, 64))
        for info, result in zip(infos, results + stream.flush(), strict=True):
            found[info.image_id] = result.detections
    return found


def write_found(root: Path) -> Source:
    """Three videos of 4, 4 and 2 frames; annotated is every seventh object that is detected."""
    generate(root, SyntheticConfig(train_videos=1, val_videos=3, frames_per_video=4, size=64))
    path = root / "val.json"
    document = json.loads(path.read_text())
    document["images"] = document["images"][:-2]
    path.write_text(json.dumps(document | {"annotations": []}))
    category_ids = {category["name"]: category["id"] for category in document["categories"]}
    document["annotations"] = [
        {
            "id": 1000 * image_id + row,
            "image_id": image_id,
            "category_id": category_ids[CLASS_NAMES[found["labels"][row]]],
            "bbox": [x, y, x2 - x, y2 - y],
            "id_track": row,
        }
        for image_id, found in found_in(chunks_of(Source(str(path), str(root)))).items()
        for row in range(0, len(found["scores"]), 7)
        for x, y, x2, y2 in [found["boxes"][row].tolist()]
    ]
    path.write_text(json.dumps(document))
    return Source(str(path), str(root))


def data_of(source: Source, **options) -> ClipDataModule:
    settings = {"class_names": CLASS_NAMES, "num_workers": 0, "chunk_size": 3}
    return ClipDataModule(val=source, **settings | options)
