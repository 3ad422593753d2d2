from __future__ import annotations

import json
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from vodet.data.annotations.source import Source

HEIGHT, WIDTH = 48, 64
# Strong in one channel each, so that JPEG and interpolation leave no doubt.
COLORS = {"red": (230, 20, 20), "green": (20, 230, 20)}
BACKGROUND = (20, 20, 60)
LENGTHS = {"long": 7, "short": 2, "still": 1}


def moving_boxes(video: int, frame: int) -> dict[str, tuple[int, int, int, int]]:
    """xyxy of the red and the green box, which overlap in no frame."""
    x, y = 4 + 4 * frame, 4 + 2 * video
    return {"red": (x, y, x + 12, y + 10), "green": (WIDTH - x - 16, 28, WIDTH - x, 44)}


def picture(boxes: dict[str, tuple[int, int, int, int]]) -> np.ndarray:
    rgb = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    for color, (left, top, right, bottom) in boxes.items():
        rgb[top:bottom, left:right] = COLORS[color]
    return rgb


def write_image(path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, rgb[..., ::-1])[1].tobytes())


@pytest.fixture
def write_set(tmp_path) -> Callable[..., Source]:
    """Writes videos with a red and a green box that move, with track ids; one frame is empty of
    annotations because it is not annotated."""

    def write(
        name: str = "set",
        lengths: dict[str, int] = LENGTHS,
        categories: tuple[tuple[int, str], ...] = ((3, "red"), (7, "green")),
        unannotated: tuple[tuple[str, int], ...] = (("long", 2),),
    ) -> Source:
        images, annotations = [], []
        ids = {category: number for number, category in categories}
        for video, (video_name, length) in enumerate(lengths.items()):
            for frame in range(length):
                is_annotated = (video_name, frame) not in unannotated
                file_name = f"{video_name}/{frame:03d}.jpg"
                boxes = moving_boxes(video, frame)
                write_image(tmp_path / name / file_name, picture(boxes))
                images.append(
                    {
                        "id": 100 + len(images),
                        "file_name": file_name,
                        "video": video_name,
                        "frame_number": frame,
                        "height": HEIGHT,
                        "width": WIDTH,
                        "is_annotated": is_annotated,
                    }
                )
                for track, (color, (left, top, right, bottom)) in enumerate(boxes.items()):
                    if is_annotated and color in ids:
                        annotations.append(
                            {
                                "id": len(annotations),
                                "image_id": images[-1]["id"],
                                "category_id": ids[color],
                                "bbox": [left, top, right - left, bottom - top],
                                "id_track": track,
                            }
                        )
        path = tmp_path / f"{name}.json"
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": color} for number, color in categories],
        }
        path.write_text(json.dumps(content))
        return Source(str(path), str(tmp_path / name))

    return write


@pytest.fixture
def source(write_set) -> Source:
    return write_set()
