from __future__ import annotations

import pytest

from data.formats import random_native
from vodet.data.formats import imagenet_xml
from vodet.data.formats.imagenet import CLASSES, read_imagenet_vid
from vodet.data.formats.imagenet_det import read_imagenet_det
from vodet.errors import ConfigError, DataError, FrameError

AIRPLANE, ZEBRA, BEAVER = "n02691156", "n02391049", "n02363005"


def xml_object(name, xmin, ymin, xmax, ymax, track=None, occluded=0) -> str:
    identity = "" if track is None else f"<trackid>{track}</trackid>"
    box = f"<xmax>{xmax}</xmax><xmin>{xmin}</xmin><ymax>{ymax}</ymax><ymin>{ymin}</ymin>"
    flags = f"<occluded>{occluded}</occluded><generated>0</generated>"
    return f"<object>{identity}<name>{name}</name><bndbox>{box}</bndbox>{flags}</object>"


def xml(*objects: str, height=48, width=64) -> str:
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    return f"<annotation><folder>f</folder>{size}{''.join(objects)}</annotation>"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "ILSVRC2015"


@pytest.fixture
def pair(root, text):
    """Writes an XML file and its image, which is opened by no one unless sizes are checked."""

    def write(name: str, content: str, kind: str = "VID"):
        text(root / f"Annotations/{kind}/{name}.xml", content)
        text(root / f"Data/{kind}/{name}.JPEG", "")

    return write


@pytest.fixture
def val(pair, root):
    pair("val/ILSVRC2015_val_00000001/000000", xml(xml_object(ZEBRA, 1, 2, 11, 22, 0, 1)))
    pair("val/ILSVRC2015_val_00000001/000001", xml())
    pair("val/ILSVRC2015_val_00000000/000000", xml(xml_object(AIRPLANE, 3, 4, 65, 40, 7)))
    return root


def test_frames_from_0_and_corners_by_name(val, convert):
    found = convert(read_imagenet_vid(val, split="val"))

    assert found.frames == {
        ("val/ILSVRC2015_val_00000000", 0): [("airplane", (3, 4, 61, 36), "7", 0)],
        ("val/ILSVRC2015_val_00000001", 0): [("zebra", (1, 2, 10, 20), "0", 0)],
        ("val/ILSVRC2015_val_00000001", 1): [],
    }
    assert [a["occluded"] for a in found.annotations] == ["0", "1"]
    assert found.images[0]["file_name"] == "Data/VID/val/ILSVRC2015_val_00000000/000000.JPEG"
    assert found.index.sizes.tolist() == [[48, 64]] * 3
    assert found.summary.clipped == 1


def test_the_30_classes_in_the_order_of_the_development_kit(val, convert):
    categories = convert(read_imagenet_vid(val, split="val")).document["categories"]

    assert [category["id"] for category in categories] == list(range(30))
    assert [categories[label]["name"] for label in (0, 9, 20, 29)] == [
        "airplane",
        "domestic_cat",
        "red_panda",
        "zebra",
    ]
    assert list(CLASSES)[9] == "n02121808"


@pytest.fixture
def train(pair, root):
    for number in range(5):
        name = f"train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000/{number:06d}"
        pair(name, xml(xml_object(ZEBRA, number, 2, number + 9, 22, 0)))
    pair("train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000001/000000", xml())
    return root


def test_frames_to_train_on_are_annotated_and_supported_by_the_others(train, convert, text):
    name = "train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000"
    frames = text(train / "VID_train_15frames.txt", f"{name} 1 0 5", f"{name} 1 3 5")

    found = convert(read_imagenet_vid(train, split="train", frames=frames))

    assert found.frames == {
        (name, 0): [("zebra", (0, 2, 9, 20), "0", 0)],
        (name, 1): [],
        (name, 2): [],
        (name, 3): [("zebra", (3, 2, 9, 20), "0", 0)],
        (name, 4): [],
    }
    assert found.index.is_annotated.tolist() == [True, False, False, True, False]


def test_a_list_of_videos_gives_whole_videos(train, val, convert, text):
    frames = text(
        val / "VID_val_videos.txt",
        "val/ILSVRC2015_val_00000001 1 0 2",
        "val/ILSVRC2015_val_00000000 3 0 1",
    )

    found = convert(read_imagenet_vid(val, split="val", frames=frames))

    assert [number for _, number in found.frames] == [0, 1, 0]
    assert found.index.is_annotated.all()
    named = text(val / "train_1.txt", "ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000 1")
    whole = convert(read_imagenet_vid(train, split="train", frames=named))
    assert whole.summary.frames == whole.summary.boxes.total() == 5


def test_a_list_of_frames(val, convert, text):
    frames = text(val / "val.txt", *["ILSVRC2015_val_00000001/000001 1"] * 2)

    found = convert(read_imagenet_vid(val, split="val", frames=frames))

    assert list(found.frames) == [("val/ILSVRC2015_val_00000001", 1)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val/ILSVRC2015_val_00000001 1 2 2", "line 1: expected a frame_index below 2, found 2"),
        ("val/ILSVRC2015_val_00000001 1 0 3", r"1 of 3 files are not in .*: 000002\.xml"),
        ("ILSVRC2015_val_00000001/000005 1", r"1 of 1 files are not in .*: 000005\.xml"),
        ("ILSVRC2015_val_00000009 1", r"Expected a folder of \.xml files at .*_00000009"),
        ("a b c", "line 1: expected `path number`"),
        ("", "--list: .*found an empty file"),
    ],
)
def test_faulty_lists(val, convert, text, line, message):
    frames = text(val / "list.txt", line)

    with pytest.raises(DataError, match=message):
        convert(read_imagenet_vid(val, split="val", frames=frames))


def test_both_files_of_a_frame_are_needed(val, convert):
    image = val / "Data/VID/val/ILSVRC2015_val_00000001/000001.JPEG"

    image.with_name("000002.JPEG").touch()
    found = convert(read_imagenet_vid(val, split="val"))
    assert found.summary.skipped == {"images without an XML file": 1}
    image.unlink()
    with pytest.raises(DataError, match=r"1 of 2 files are not in .*: 000001\.JPEG"):
        convert(read_imagenet_vid(val, split="val"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>", r"000001\.xml: cannot be read as an ImageNet annotation: "),
        ("<annotation></annotation>", "expected an element size/height with text, found none"),
        (xml(height=0), "expected height and width above 0, found 0 and 64"),
        (xml(f"<object><name>{ZEBRA}</name></object>"), "object 1: expected an element bndbox"),
        (xml(xml_object(ZEBRA, 1, "", 2, 3)), "object 1: expected an element ymin with text"),
        (xml(xml_object(ZEBRA, 1, "x", 2, 3)), "object 1: could not convert"),
        (xml(xml_object(ZEBRA, 1, "inf", 2, 3)), "object 1: bndbox: expected finite numbers"),
        (
            xml(xml_object(BEAVER, 1, 2, 3, 4)),
            r"/000001\.xml, object 1: expected .* one of the 30 classes",
        ),
    ],
)
def test_malformed_files_are_named(val, pair, convert, content, message):
    pair("val/ILSVRC2015_val_00000001/000001", content)

    with pytest.raises(DataError, match=message):
        convert(read_imagenet_vid(val, split="val"))


def test_files_with_other_names_are_refused(val, pair, convert):
    pair("val/ILSVRC2015_val_00000001/copy", xml())

    with pytest.raises(DataError, match=r"such as 000000\.xml, in .*00000001; found copy\.xml"):
        convert(read_imagenet_vid(val, split="val"))


@pytest.mark.parametrize("box", [(64, 0, 70, 9), (0, 48, 9, 60)])
def test_boxes_outside_the_image_are_counted(val, pair, convert, box):
    pair("val/ILSVRC2015_val_00000001/000001", xml(xml_object(ZEBRA, *box)))

    found = convert(read_imagenet_vid(val, split="val"))

    assert found.frames["val/ILSVRC2015_val_00000001", 1] == []
    assert found.summary.skipped == {"boxes entirely outside the image": 1}


def test_sizes_are_checked_if_asked(val, convert, image):
    for name in ("00000000/000000", "00000001/000000", "00000001/000001"):
        path = val / f"Data/VID/val/ILSVRC2015_val_{name}.JPEG"
        image(path.with_suffix(".jpg"), 48, 64 if name < "00000001/000001" else 60).replace(path)

    with pytest.raises(FrameError, match=r"000001\.JPEG: expected 48 x 64 .* found 48 x 60"):
        convert(read_imagenet_vid(val, split="val", check_sizes=True))
    convert(read_imagenet_vid(val, split="val"))


def test_splits(val, tmp_path):
    with pytest.raises(ConfigError, match="expected one of train, val; found test"):
        read_imagenet_vid(val, split="test")
    with pytest.raises(ConfigError, match="expected one of train, val; found nothing"):
        read_imagenet_vid(val)
    with pytest.raises(DataError, match="contains Annotations, Data"):
        read_imagenet_vid(val, split="train")


def test_processes_give_what_one_gives(val, convert, monkeypatch):
    alone = convert(read_imagenet_vid(val, split="val", workers=1))
    monkeypatch.setattr(imagenet_xml, "FEW", 2)
    monkeypatch.setattr(imagenet_xml, "CHUNK", 2)

    assert convert(read_imagenet_vid(val, split="val", workers=2)).document == alone.document


def test_faults_in_processes_are_named(val, pair, convert, monkeypatch):
    monkeypatch.setattr(imagenet_xml, "FEW", 2)
    pair("val/ILSVRC2015_val_00000001/000001", "<annotation></annotation>")

    with pytest.raises(DataError, match=r"000001\.xml: cannot be read as an ImageNet annotation"):
        convert(read_imagenet_vid(val, split="val", workers=2))


@pytest.fixture
def det(pair, root):
    beaver = xml_object(BEAVER, 1, 2, 3, 4)
    name = "train/ILSVRC2014_train_0000/ILSVRC2014_train_00000002"
    pair(name, xml(beaver, xml_object(ZEBRA, 1, 2, 11, 22)), "DET")
    pair("train/ILSVRC2013_train/n02363005/n02363005_1", xml(beaver), "DET")
    return root


def test_det_images_are_videos_of_one_frame(det, convert):
    found = convert(read_imagenet_det(det, split="train"))

    name = "ILSVRC2014_train_0000/ILSVRC2014_train_00000002"
    assert found.frames == {(f"train/{name}", 0): [("zebra", (1, 2, 10, 20), None, 0)]}
    assert found.images[0]["file_name"] == f"Data/DET/train/{name}.JPEG"
    assert found.summary.skipped == {
        "objects outside the 30 classes of VID": 2,
        "images without an object of the 30 classes": 1,
    }


def test_det_keeps_empty_images_and_takes_lists_if_asked(det, convert, text):
    frames = text(det / "list.txt", "train/ILSVRC2013_train/n02363005/n02363005_1 1")

    assert len(convert(read_imagenet_det(det, split="train", keep_empty=True)).frames) == 2
    listed = convert(read_imagenet_det(det, split="train", frames=frames, keep_empty=True))
    assert list(listed.frames) == [("train/ILSVRC2013_train/n02363005/n02363005_1", 0)]
    (det / "Data/DET/train/ILSVRC2013_train/n02363005/n02363005_1.JPEG").unlink()
    with pytest.raises(DataError, match=r"1 of 1 files .*: n02363005_1\.JPEG\."):
        convert(read_imagenet_det(det, split="train", keep_empty=True))


def test_det_images_of_val_are_in_no_folder(pair, root, convert):
    pair("val/ILSVRC2012_val_00000001", xml(xml_object(ZEBRA, 1, 2, 80, 22)), "DET")

    found = convert(read_imagenet_det(root, split="val"))

    assert found.frames == {
        ("val/ILSVRC2012_val_00000001", 0): [("zebra", (1, 2, 63, 20), None, 0)]
    }
    assert found.images[0]["file_name"] == "Data/DET/val/ILSVRC2012_val_00000001.JPEG"
    assert found.summary.clipped == 1


def test_faults_of_det(det, pair, image, convert, text):
    with pytest.raises(ConfigError, match="expected one of train, val; found test"):
        read_imagenet_det(det, split="test")
    with pytest.raises(DataError, match=r"Looked for the annotations of DET/val in .*found none"):
        read_imagenet_det(det, split="val")
    with pytest.raises(DataError, match=r"--list: cannot read .*none\.txt"):
        read_imagenet_det(det, split="train", frames=det / "none.txt")
    unknown = text(det / "list.txt", "train/ILSVRC2014_train_0000/unknown 1")
    with pytest.raises(DataError, match=r"Expected an XML file at .*unknown\.xml, found none"):
        convert(read_imagenet_det(det, split="train", frames=unknown))
    path = det / "Data/DET/train/ILSVRC2014_train_0000/ILSVRC2014_train_00000002.JPEG"
    image(path.with_suffix(".jpg"), 48, 60).replace(path)
    with pytest.raises(FrameError, match=r"00000002\.JPEG: expected 48 x 64 .* found 48 x 60"):
        convert(read_imagenet_det(det, split="train", check_sizes=True))
    pair("train/ILSVRC2014_train_0000/ILSVRC2014_train_00000001", "<annotation/>", "DET")
    with pytest.raises(DataError, match=r"00000001\.xml: cannot be read as an ImageNet annotation"):
        convert(read_imagenet_det(det, split="train"))


def test_random_objects_of_all_classes(root, rng, same_as_written):
    written = random_native.imagenet_vid(root, rng, CLASSES)
    records = read_imagenet_vid(root, split="val")

    found = same_as_written(records, written)
    assert records.skipped == {"images without an XML file": 30}
    assert found.index.sizes.tolist() == [[480, 640]] * 60


def test_random_objects_by_a_list_of_frames(root, rng, same_as_written):
    written = random_native.imagenet_vid(root, rng, CLASSES)
    records = read_imagenet_vid(
        root, split="val", frames=root / "ImageSets/VID/val.txt", check_sizes=True
    )

    found = same_as_written(records, written)
    assert [image["file_name"] for image in found.images] == [
        f"Data/VID/{video}/{frame:06d}.JPEG" for video, frame in written
    ]
