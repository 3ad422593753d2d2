from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from data.formats import random_native
from vodet.data.formats.folders import read_sequences
from vodet.data.formats.kitti_mots import read_kitti_mots
from vodet.errors import ConfigError, DataError, FrameError

HEIGHT, WIDTH = 12, 20


def ids(**regions: tuple[int, int, int, int]) -> np.ndarray:
    """An image of ids, ``_1003=(left, top, right, bottom)``."""
    values = np.zeros((HEIGHT, WIDTH), np.uint16)
    for name, (left, top, right, bottom) in regions.items():
        values[top:bottom, left:right] = int(name[1:])
    return values


FRAMES = {
    0: ids(_10000=(0, 0, 4, 4), _1003=(2, 3, 9, 8), _2001=(15, 6, 20, 12)),
    1: ids(),
    2: ids(_1003=(3, 3, 10, 8)),
}


def lines(values: np.ndarray, frame: int) -> list[str]:
    found = []
    for number in np.unique(values[values > 0]):
        mask = np.asfortranarray((values == number).astype(np.uint8))
        counts = coco_mask.encode(mask)["counts"].decode()
        found.append(f"{frame} {number} {number // 1000} {HEIGHT} {WIDTH} {counts}")
    return found


@pytest.fixture
def source(tmp_path, image, text, picture):
    for sequence in ("0001", "0002"):
        for frame, values in FRAMES.items():
            image(tmp_path / f"k/training/image_02/{sequence}/{frame:06d}.png", HEIGHT, WIDTH)
            picture(tmp_path / f"k/instances/{sequence}/{frame:06d}.png", values)
        rows = [line for frame, values in FRAMES.items() for line in lines(values, frame)]
        text(tmp_path / f"k/instances_txt/{sequence}.txt", *rows)
    return tmp_path / "k"


@pytest.mark.parametrize("masks", ["txt", "png"])
def test_tight_boxes_of_masks_of_16_bits(source, convert, masks):
    found = convert(read_kitti_mots(source, sequences={"0001": None}, masks=masks))

    assert {key: sorted(boxes) for key, boxes in found.frames.items()} == {
        ("0001", 0): [
            ("car", (0, 0, 4, 4), "10000", 1),
            ("car", (2, 3, 7, 5), "1003", 0),
            ("pedestrian", (0, 0, 4, 4), "10000", 1),
            ("pedestrian", (15, 6, 5, 6), "2001", 0),
        ],
        ("0001", 1): [],  # without a line
        ("0001", 2): [("car", (3, 3, 7, 5), "1003", 0)],
    }
    # Without the two pixels that lie over it, the ignore region has 14 of 16.
    areas = {a["id_track"]: a["area"] for a in found.annotations if a["image_id"] == 0}
    assert areas == {"1003": 35, "10000": 14, "2001": 30}
    assert found.images[2]["file_name"] == "training/image_02/0001/000002.png"


def test_both_forms_hold_the_same(source, convert):
    text, png = (
        convert(read_kitti_mots(source, masks=masks), drop_ignored=True).index
        for masks in ("txt", "png")
    )

    np.testing.assert_array_equal(text.boxes, png.boxes)
    np.testing.assert_array_equal(text.areas, png.areas)
    assert text.num_videos == 2


def test_the_last_number_of_a_seqmap_is_the_last_frame(source, convert, text, tmp_path):
    seqmap = text(tmp_path / "val.seqmap", "0002 empty 000001 000002")

    found = convert(read_kitti_mots(source, sequences=read_sequences(str(seqmap))))

    assert list(found.frames) == [("0002", 1), ("0002", 2)]
    with pytest.raises(DataError, match=r"Expected the images 0 to 3 in .*: 3"):
        convert(read_kitti_mots(source, sequences={"0001": range(4)}))


def test_official_splits(source):
    with pytest.raises(DataError, match=r"8 of 9 sequences are not in .*: 0006, 0007"):
        read_kitti_mots(source, split="val")
    with pytest.raises(ConfigError, match="expected one of train, val; found test"):
        read_kitti_mots(source, split="test")
    with pytest.raises(ConfigError, match="found both"):
        read_kitti_mots(source, split="val", sequences={"0001": None})
    with pytest.raises(ConfigError, match="--masks: expected one of txt, png; found PNG"):
        read_kitti_mots(source, masks="PNG")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 1001 1 12 20 0", r"line 1: rle: .* 12 x 20 pixels, found 0"),
        ("0 1001 1 12 20 \x7f", "line 1: rle: .* 12 x 20 pixels, found a string that is not"),
        ("0 1001 1 20 12 0", "line 1: expected the image size 12 x 20 .*found 20 x 12"),
        ("0 1001 2 12 20 0", r"line 1: id: expected class \* 1000"),
        ("0 3001 3 12 20 0", "line 1: class: expected one of 1, 2, 10, found 3"),
        ("3 1001 1 12 20 0", "line 1: expected a frame with an image, found frame 3"),
        ("0 1001 1 12 20", "line 1: expected 6 values"),
    ],
)
def test_malformed_lines_are_named(source, convert, text, line, message):
    text(source / "instances_txt/0001.txt", line)

    with pytest.raises(DataError, match=message):
        convert(read_kitti_mots(source))


def test_faulty_images_of_ids(source, convert, picture):
    path = source / "instances/0001/000000.png"

    picture(path, np.full((HEIGHT, WIDTH), 5001, np.uint16))
    with pytest.raises(DataError, match=r"class \* 1000 \+ instance.* found 5001"):
        convert(read_kitti_mots(source, masks="png"))
    picture(path, np.zeros((HEIGHT, 3), np.uint16))
    with pytest.raises(FrameError, match=r"expected the image size 12 x 20 .* found 12 x 3"):
        convert(read_kitti_mots(source, masks="png"))
    path.unlink()
    with pytest.raises(FrameError, match="Cannot read the instance masks"):
        convert(read_kitti_mots(source, masks="png"))


@pytest.mark.parametrize("masks", ["txt", "png"])
def test_images_that_are_missing(source, convert, masks):
    (source / "training/image_02/0002").rename(source / "elsewhere")
    with pytest.raises(DataError, match=r"Expected a folder of images at .*0002, found none"):
        convert(read_kitti_mots(source, masks=masks))
    with pytest.raises(DataError, match=r"Looked for images of KITTI in .*found none"):
        read_kitti_mots(source, images=source / "instances", masks=masks)


@pytest.mark.parametrize("drop_ignored", [True, False])
@pytest.mark.parametrize("masks", ["txt", "png"])
def test_random_masks_that_hide_each_other(rng, same_as_written, tmp_path, masks, drop_ignored):
    written = random_native.kitti_mots(tmp_path / "k", rng)
    same_as_written(read_kitti_mots(tmp_path / "k", masks=masks), written, drop_ignored)
