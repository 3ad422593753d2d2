from __future__ import annotations

import json

import numpy as np
import pytest

from vodet.data.formats.cityscapes import read_cityscapes
from vodet.errors import ConfigError, DataError, FrameError

HEIGHT, WIDTH = 20, 40
CITY = "lindau"


def rectangle(label, left, top, right, bottom, **fields):
    """A polygon of the pixels from left to right and top to bottom, both included."""
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return {"label": label, "polygon": corners, **fields}


OBJECTS = [
    rectangle("road", 0, 0, 39, 19),
    rectangle("car", 2, 2, 11, 9),
    rectangle("bus", 20, 2, 25, 5),  # to be covered wholly
    rectangle("person", 8, 0, 13, 15),  # covers the right part of the car
    rectangle("building", 20, 0, 30, 6),
    rectangle("polegroup", 16, 7, 18, 9),  # no group of instances
    rectangle("truck", 0, 0, 5, 5, deleted=1),
    rectangle("license plate", 2, 8, 3, 9),  # covers nothing
    rectangle("cargroup", 30, 10, 34, 14),
    rectangle("cargroup", 36, 10, 38, 14),
    rectangle("caravan", 14, 16, 18, 18),
    rectangle("bicycle", -3, 17, 4, 25),  # leaves the image
]
VISIBLE = [
    ("bicycle", (0, 17, 5, 3), None, 0),
    ("car", (2, 2, 6, 8), None, 0),
    ("car", (30, 10, 5, 5), None, 1),
    ("car", (36, 10, 3, 5), None, 1),
    ("person", (8, 0, 6, 16), None, 0),
]


def ids() -> np.ndarray:
    """The image of ids of the same annotations."""
    values = np.full((HEIGHT, WIDTH), 7, np.uint16)
    values[2:10, 2:12] = 26000
    values[:16, 8:14] = 24000
    values[:7, 20:31] = 11
    values[10:15, 30:35] = values[10:15, 36:39] = 26
    values[16:19, 14:19] = 29000
    values[17:, :5] = 33000
    return values


@pytest.fixture
def annotated(tmp_path, image, picture):
    def write(sequence: int = 0, frame: int = 19, objects=OBJECTS, size=(HEIGHT, WIDTH)):
        root, stem = tmp_path / "cityscapes", f"{CITY}_{sequence:06d}_{frame:06d}"
        image(root / f"leftImg8bit/val/{CITY}/{stem}_leftImg8bit.png", HEIGHT, WIDTH)
        labels = root / f"gtFine/val/{CITY}/{stem}_gtFine_instanceIds.png"
        picture(labels, ids())
        content = {"imgHeight": size[0], "imgWidth": size[1], "objects": objects}
        labels.with_name(f"{stem}_gtFine_polygons.json").write_text(json.dumps(content))
        return root

    return write


@pytest.mark.parametrize("masks", ["polygons", "instances"])
def test_boxes_of_what_is_visible_and_groups_as_crowd(annotated, convert, masks):
    found = convert(read_cityscapes(annotated(), split="val", masks=masks))

    assert sorted(found.frames["lindau_000000_000019", 19]) == VISIBLE
    areas = {a["bbox"][0]: a["area"] for a in found.annotations}
    assert areas == {0: 15, 2: 48, 30: 25, 36: 15, 8: 96}
    assert found.images[0]["file_name"] == (
        "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png"
    )


def test_what_is_left_out_is_counted(annotated, convert):
    assert convert(read_cityscapes(annotated(), split="val")).summary.skipped == {
        "polygons marked as deleted": 1,
        "objects entirely covered by others or outside the image": 1,
        "instances of classes that are not evaluated (caravan, trailer)": 1,
    }


def test_nothing_is_left_out_of_images_of_ids_but_classes_that_are_not_evaluated(
    annotated, convert, picture
):
    root = annotated()
    path = root / f"gtFine/val/{CITY}/{CITY}_000000_000019_gtFine_instanceIds.png"

    skipped = convert(read_cityscapes(root, split="val", masks="instances")).summary.skipped
    assert skipped == {"instances of classes that are not evaluated (caravan, trailer)": 1}
    picture(path, np.full((HEIGHT, WIDTH), 7, np.uint16))
    assert convert(read_cityscapes(root, split="val", masks="instances")).summary.skipped == {}


def test_neighbours_are_counted_from_the_annotated_frame(annotated, convert, image):
    # A city recorded as one long sequence: the annotated frames are not number 19.
    annotated(frame=313)
    root = annotated(frame=600)
    folder = root / f"leftImg8bit_sequence/val/{CITY}"
    for number in [*range(290, 330), *range(581, 611)]:
        image(folder / f"{CITY}_000000_{number:06d}_leftImg8bit.png", HEIGHT, WIDTH)

    found = convert(read_cityscapes(root, split="val"))

    first, second = "lindau_000000_000313", "lindau_000000_000600"
    assert list(found.frames) == [
        *((first, number) for number in range(294, 324)),
        *((second, number) for number in range(581, 611)),
    ]
    assert [i["frame_number"] for i in found.images if i.get("is_annotated", True)] == [313, 600]
    assert sorted(found.frames[first, 313]) == VISIBLE
    assert found.images[18]["is_annotated"] is False
    assert found.images[18]["file_name"].startswith("leftImg8bit_sequence/val/lindau/")
    assert found.images[19]["file_name"].startswith("leftImg8bit/val/lindau/")
    assert found.summary.support_frames == 58


def test_missing_neighbours_are_counted(annotated, convert, image):
    root = annotated()
    folder = root / f"leftImg8bit_sequence/val/{CITY}"
    for number in (17, 18, 20):
        image(folder / f"{CITY}_000000_{number:06d}_leftImg8bit.png", HEIGHT, WIDTH)

    found = convert(read_cityscapes(root, split="val"), drop_ignored=True)

    assert [number for _, number in found.frames] == [17, 18, 19, 20]
    assert found.summary.skipped["neighbouring frames missing from leftImg8bit_sequence"] == 26


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (
            [rectangle("bear", 0, 0, 1, 1)],
            r"objects\[0\]\.label: .*, found 'bear'",
        ),
        ([{"label": "car"}], r"polygons\.json: cannot be read as a Cityscapes polygon"),
        ([{"label": "car", "polygon": [[1, 2]]}], r"objects\[0\]\.polygon: expected at least 3"),
    ],
)
def test_faulty_polygons(annotated, convert, objects, message):
    with pytest.raises(DataError, match=message):
        convert(read_cityscapes(annotated(objects=objects), split="val"))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.full((10, WIDTH), 7, np.uint16), FrameError, "image size 20 x 40 .*10 x 40"),
        (np.full((HEIGHT, WIDTH), 45001, np.uint16), DataError, "labels 0 to 33, .* found 45001"),
        (np.full((HEIGHT, WIDTH, 3), 7, np.uint8), FrameError, "one channel .* found 3 channels"),
    ],
)
def test_faulty_images_of_ids(annotated, convert, picture, values, error, message):
    root = annotated()
    picture(root / f"gtFine/val/{CITY}/{CITY}_000000_000019_gtFine_instanceIds.png", values)

    with pytest.raises(error, match=message):
        convert(read_cityscapes(root, split="val", masks="instances"))


def test_missing_or_misnamed_annotations(annotated, tmp_path):
    folder = annotated() / f"gtFine/val/{CITY}"
    with pytest.raises(DataError, match=r"annotations of Cityscapes in .*train, found none"):
        read_cityscapes(tmp_path / "cityscapes", split="train")
    with pytest.raises(ConfigError, match="--masks: expected one of polygons, instances; found x"):
        read_cityscapes(tmp_path / "cityscapes", split="val", masks="x")
    labels = folder / f"{CITY}_000000_000019_gtFine_instanceIds.png"
    labels.rename(folder / "lindau_19_gtFine_instanceIds.png")
    with pytest.raises(DataError, match="expected a name like city_000000_000019_gtFine_instance"):
        read_cityscapes(tmp_path / "cityscapes", split="val", masks="instances")
    (folder / "lindau_19_gtFine_instanceIds.png").unlink()
    with pytest.raises(
        DataError, match=r"named \*_gtFine_instanceIds\.png in .*lindau, found none"
    ):
        read_cityscapes(tmp_path / "cityscapes", split="val", masks="instances")


def test_what_is_missing_or_of_another_size(annotated, convert, image):
    with pytest.raises(DataError, match=r"expected the image size 20 x 40 .* found 10 x 40"):
        convert(read_cityscapes(annotated(size=(10, WIDTH)), split="val"))
    root = annotated()
    neighbour = f"leftImg8bit_sequence/val/{CITY}/{CITY}_000000_000018_leftImg8bit.png"
    image(root / neighbour, 10, 10)
    with pytest.raises(FrameError, match=r"expected 20 x 40 .* found 10 x 10"):
        convert(read_cityscapes(root, split="val"))
    (root / f"leftImg8bit/val/{CITY}/{CITY}_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(DataError, match=r"Expected the image of .*polygons"):
        convert(read_cityscapes(root, split="val"))
    with pytest.raises(ConfigError, match="expected one of train, val; found test"):
        read_cityscapes(root, split="test")
    with pytest.raises(DataError, match=r"are not in .*: ulm; there are: lindau"):
        read_cityscapes(root, split="val", sequences={"ulm": None})
