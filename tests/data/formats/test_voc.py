from __future__ import annotations

import pytest

from vodet.data.formats.voc import read_voc, splits_in
from vodet.errors import ConfigError, DataError, FrameError

PART = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"


def thing(*corners: object, name: str = "car", more: str = "") -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    inside = "".join(f"<{c}>{v}</{c}>" for c, v in zip(names, corners, strict=False))
    return f"\n<object><name>{name}</name>{PART}{more}<bndbox>{inside}</bndbox></object>"


@pytest.fixture
def voc(tmp_path, image):
    """Writes an image and its annotation with the given objects."""

    def write(name: str, *objects: str, size=(48, 64), suffix: str = ".jpg"):
        root = tmp_path / "voc"
        image(root / f"JPEGImages/{name}{suffix}", 48, 64)
        path = root / f"Annotations/{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        sides = f"<size><width>{size[1]}</width><height>{size[0]}</height></size>"
        path.write_text(f"<annotation>{sides}{''.join(objects)}</annotation>")
        return root

    return write


def test_corners_count_from_1_and_difficult_objects_are_ignored(voc, convert):
    voc("b", thing(1, 1, 64, 48), suffix=".PNG")
    root = voc(
        "a",
        thing(2, 3, 11.5, 12, name="bus", more="<difficult>0</difficult><occluded>1</occluded>"),
        thing(60, 3, 70, 12, more="<difficult>1</difficult>"),
        size=(0, 0),
    )

    found = convert(read_voc(root))

    assert found.frames == {
        ("JPEGImages/a", 0): [
            ("bus", (1, 2, 10.5, 10), None, 0),
            ("car", (59, 2, 5, 10), None, 1),
        ],
        ("JPEGImages/b", 0): [("car", (0, 0, 64, 48), None, 0)],
    }
    assert found.annotations[0]["occluded"] == "1"
    assert found.images[1]["file_name"] == "JPEGImages/b.PNG"
    assert found.summary.clipped == 1
    from_zero = convert(read_voc(root, zero_based=True))
    assert from_zero.frames["JPEGImages/a", 0][0][1] == (2, 3, 9.5, 9)


def test_frames_of_videos(voc, convert):
    for number in range(4):
        root = voc(f"clip/{number:03d}", thing(1, 2, 3, 4))
    with pytest.raises(ConfigError, match=r"clip/000\.jpg'.*--videos-from 'folder'"):
        read_voc(root)

    found = convert(read_voc(root, videos_from="folder"))

    assert list(found.frames) == [("JPEGImages/clip", number) for number in range(4)]


def test_splits(voc, text, convert):
    voc("a", thing(1, 2, 3, 4, name="cat"))
    root = voc("b", thing(1, 2, 3, 4))
    with pytest.raises(DataError, match=r"train\.txt in .*Main"):
        splits_in(root)
    text(root / "ImageSets/Main/train.txt", "b", "")
    text(root / "ImageSets/Main/car_train.txt", "b  1")
    assert splits_in(root) == ["train"]

    found = convert(read_voc(root, split="train"))
    assert list(found.frames) == [("JPEGImages/b", 0)]
    assert [c["name"] for c in found.document["categories"]] == ["car", "cat"]  # of all splits
    with pytest.raises(ConfigError, match="--split: expected one of train; found val"):
        read_voc(root, split="val")
    text(root / "ImageSets/Main/train.txt", "b", "c")
    with pytest.raises(DataError, match=r"train\.txt: line 2: .*c\.xml"):
        read_voc(root, split="train")


@pytest.mark.parametrize(
    ("faulty", "found"),
    [
        (thing(1, 2, 3), r"line 2: object: .*bndbox/ymax.*none"),
        (thing(1, 2, 3, "x"), r"line 2: object: .*bndbox/ymax.*'x'"),
        (thing(1, 2, 3, "inf"), r"finite number, found 'inf'"),
        (thing(1, 2, 3, 4, name=""), r"line 2: object: .*element name"),
        (thing(1, 2, 3, 4, more="<difficult>2</difficult>"), "difficult.*0, 1, found 2"),
        ("<object>", "XML: mismatched tag: line 1"),
    ],
)
def test_malformed_elements_are_named(voc, faulty, found):
    root = voc("a", faulty)

    with pytest.raises(DataError, match=rf"a\.xml: .*{found}"):
        read_voc(root)


def test_what_is_missing_or_of_another_size(voc, convert, image, tmp_path):
    with pytest.raises(DataError, match="annotations of VOC"):
        read_voc(tmp_path / "none")
    root = voc("a", thing(1, 2, 3, 4), size=(48, 60))
    with pytest.raises(FrameError, match=r"expected 48 x 60 .* found 48 x 64"):
        convert(read_voc(root))
    voc("a", thing(1, 2, 3, 4))
    image(root / "JPEGImages/unannotated.jpg", 48, 64)
    found = convert(read_voc(root))
    assert found.summary.skipped == {"images without an XML file": 1}
    (root / "JPEGImages/a.jpg").unlink()
    with pytest.raises(DataError, match=r"annotation a\.xml at .*a\.jpg"):
        read_voc(root)
    (root / "Annotations/a.xml").unlink()
    with pytest.raises(DataError, match=r"XML files in .*Annotations, found none"):
        read_voc(root)
