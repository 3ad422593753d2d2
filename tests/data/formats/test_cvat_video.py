from __future__ import annotations

import pytest

from vodet.data.formats.cvat_video import read_cvat_video
from vodet.errors import DataError

LABELS = (
    "<labels><label><name>car</name></label><label><name>bus</name></label>"
    "<label><name>wheel</name><parent>car</parent></label></labels>"
)
TASK = (
    "<task><id>{id}</id><name>{name}</name><size>4</size><start_frame>{start}</start_frame>"
    "<stop_frame>{stop}</stop_frame><frame_filter>{filter}</frame_filter>{labels}"
    "<original_size><width>64</width><height>48</height></original_size></task>"
)
FILE = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'


def task(**values) -> str:
    defaults = {"id": 7, "name": "street", "start": 0, "stop": 3, "filter": "", "labels": LABELS}
    return TASK.format(**defaults | values)


def box(frame: int, left: float, outside: int = 0, occluded: int = 0, **other: str) -> str:
    more = "".join(f' {name}="{value}"' for name, value in other.items())
    return (
        f'<box frame="{frame}" keyframe="1" outside="{outside}" occluded="{occluded}" '
        f'xtl="{left:.2f}" ytl="10.00" xbr="{left + 8:.2f}" ybr="20.00" z_order="0"{more}>\n'
        '<attribute name="colour">red</attribute></box>\n'
    )


def track(*shapes: str, number: int = 0, label: str = "car", more: str = "") -> str:
    start = f'<track id="{number}" label="{label}" source="manual"{more}>\n'
    return f"{start}{''.join(shapes)}</track>\n"


@pytest.fixture
def cvat(tmp_path, image):
    """Writes annotations.xml, and images with the given numbers."""

    def write(*tracks: str, meta: str = "", frames=range(4), folder: str = "images"):
        root = tmp_path / "cvat"
        for number in frames:
            image(root / folder / f"frame_{number:06d}.PNG", 48, 64)
        content = f"{FILE}<meta>{meta or task()}</meta>\n{''.join(tracks)}</annotations>\n"
        (root / "annotations.xml").write_text(content)
        return root

    return write


def test_tracks_with_interpolated_and_outside_boxes(cvat, convert):
    root = cvat(
        track(box(0, 4), box(2, 8, occluded=1), box(3, 8, outside=1)),
        track(box(1, 60), number=1, label="bus"),
        track('<polygon frame="0" points="1,1;2,2;3,1"/>', number=2),
    )

    found = convert(read_cvat_video(root))

    assert found.frames == {
        ("street", 0): [("car", (4, 10, 8, 10), "0", 0)],
        ("street", 1): [("car", (6, 10, 8, 10), "0", 0), ("bus", (60, 10, 4, 10), "1", 0)],
        ("street", 2): [("car", (8, 10, 8, 10), "0", 0)],
        ("street", 3): [],
    }
    assert [category["name"] for category in found.document["categories"]] == ["car", "bus"]
    assert [a["occluded"] for a in found.annotations] == ["0", "0", "0", "1"]
    assert found.images[0]["file_name"] == "images/frame_000000.PNG"
    assert list(found.summary.skipped.values()) == [1]


def test_every_second_frame_of_a_part_of_the_video(cvat, convert):
    meta = task(start=10, stop=15, filter="step=2")
    root = cvat(track(box(10, 4), box(14, 8)), meta=meta, frames=range(10, 16, 2), folder=".")

    found = convert(read_cvat_video(root / "annotations.xml"))

    assert {number: boxes[0][1][0] for (_, number), boxes in found.frames.items()} == {
        10: 4,
        12: 6,
        14: 8,
    }


def test_a_project_with_two_tasks_of_one_name(cvat, convert):
    tasks = "".join(task(id=number, labels="", stop=1) for number in (3, 4))
    meta = f"<project><id>1</id><name>p</name><tasks>{tasks}</tasks>{LABELS}</project>"
    cvat(meta=meta, frames=range(2), folder="images/street 3")
    tracks = [
        track(box(0, 4), more=' task_id="3" subset="train"'),
        track(box(1, 8), number=1, label="bus", more=' task_id="4"'),
    ]
    root = cvat(*tracks, meta=meta, frames=range(2), folder="images/street 4")

    found = convert(read_cvat_video(root))

    assert {key: boxes[0][2] for key, boxes in found.frames.items() if boxes} == {
        ("street 3", 0): "0",
        ("street 4", 1): "1",
    }
    with pytest.raises(DataError, match=r"line \d+: track: .*task_id: expected one of 3, 4.*'5'"):
        read_cvat_video(cvat(track(more=' task_id="5"'), meta=meta))


def test_rotated_boxes(cvat, convert):
    root = cvat(track(box(0, 20, rotation="90.00")))

    (rotated,) = convert(read_cvat_video(root)).frames["street", 0]
    assert rotated[1] == pytest.approx((19, 11, 10, 8))


@pytest.mark.parametrize(
    ("tracks", "found"),
    [
        ([track(box(0, 4), label="dog")], r"line 5: track: .*car, bus; found 'dog'"),
        ([track(box(0, 4), box(0, 5))], r"line 8: .*frame 0 .*two"),
        ([track(box(9, 4))], r"line 5: track: .*frame 9"),
        ([track(box(0, float("nan")))], r"line 6: box: .*xtl: .*finite number, found 'nan'"),
        ([track('<box frame="0"/>')], r"line 6: box: .*attribute xtl, found none"),
        ([track(box(0, 4, outside=2))], r"outside: expected one of 0, 1, found 2"),
        ([track(box(0, 4)), track(box(1, 4))], r"id 0 2 times"),
        (['<image id="0" name="a"/>'], r"line 5: .*CVAT for images"),
    ],
)
def test_malformed_elements_are_named(cvat, tracks, found):
    with pytest.raises(DataError, match=rf"annotations\.xml: .*{found}"):
        list(read_cvat_video(cvat(*tracks)).videos)


def test_missing_files_and_images(cvat, tmp_path, convert):
    with pytest.raises(DataError, match=r"annotations of CVAT for video at .*none\.xml"):
        read_cvat_video(tmp_path / "none.xml")
    root = cvat(frames=range(1, 5))  # numbered from 1
    with pytest.raises(DataError, match=r"images 0 to 3 in .*images; 1 are missing: 0"):
        convert(read_cvat_video(root))
    meta = task(stop=10**12)
    with pytest.raises(DataError, match=r"images 0 to 1000000000000 .*999999999996 are missing"):
        convert(read_cvat_video(cvat(meta=meta)))
    with pytest.raises(DataError, match="images of the task street"):
        convert(read_cvat_video(root, images=tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="task, job or project"):
        read_cvat_video(cvat(meta=LABELS.join(["<x>", "</x>"])))


def test_the_name_of_a_task_is_no_path(cvat, convert, tmp_path):
    (tmp_path / "secret").mkdir()
    found = convert(read_cvat_video(cvat(meta=task(name="../secret"))))

    assert found.images[0]["file_name"] == "images/frame_000000.PNG"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("<annotations>", "no element found: line 1"),
        ("<x/>", "element annotations, found x"),
        ("not XML", "cannot be read as XML"),
        ('<!DOCTYPE a [<!ENTITY a "1"><!ENTITY b "&a;&a;">]><annotations>&b;</annotations>', "a, "),
        ('<?xml version="1.0" encoding="none"?><annotations/>', "unknown encoding"),
    ],
)
def test_what_is_not_an_xml_file_of_cvat(tmp_path, content, found):
    path = tmp_path / "annotations.xml"
    path.write_text(content)

    with pytest.raises(DataError, match=found) as caught:
        read_cvat_video(path)
    assert str(path) in str(caught.value)
