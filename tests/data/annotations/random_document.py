"""A random ST-COCO document, of frame sizes and objects as real videos have them."""

from __future__ import annotations

from typing import Any

import numpy as np

SIZES = ((1080, 1920), (375, 1242), (480, 854))


def random_document(seed: int, crowded: bool = True) -> dict[str, Any]:
    """Videos with gaps between their frames, empty frames, crowds and regions to ignore.

    Annotations come in no order; those of a frame differ in area from a few to 250,000 pixels.
    """
    rng = np.random.default_rng(seed)
    categories = {3: "person", 8: "car", 1: "bird", 90: "dog"}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    image_ids = iter(rng.permutation(10_000))
    for video, length in enumerate(rng.integers(2, 12, 5)):
        height, width = SIZES[video % len(SIZES)]
        numbers = np.sort(rng.choice(100, length, replace=False))
        for number in (int(number) for number in numbers):
            image = {
                "id": int(next(image_ids)),
                "file_name": f"video {video}/{number:05}.jpg",
                "video": f"video {video}",
                "frame_number": number,
                "height": height,
                "width": width,
            }
            images.append(image)
            for track in range(int(rng.integers(0, 25 if crowded else 4))):
                sides = np.minimum(np.exp(rng.uniform(1, 6.2, 2)), (width, height))
                corner = rng.uniform(0, np.array([width, height]) - sides)
                box = [float(value) for value in np.floor([*corner, *sides])]
                annotations.append(
                    {
                        "image_id": image["id"],
                        "category_id": int(rng.choice(list(categories))),
                        "bbox": box,
                        "area": box[2] * box[3] * 0.7,  # as of masks
                        "id_track": track if track % 2 else f"object {track}",
                        "iscrowd": int(rng.random() < 0.07),
                        "ignore": int(rng.random() < 0.07),
                    }
                )
    shuffled = [annotations[row] for row in rng.permutation(len(annotations))]
    return {
        "images": images,
        "annotations": [row | {"id": number} for number, row in enumerate(shuffled)],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
    }
