from __future__ import annotations

import pytest

from vodet.data.formats.ua_detrac import read_ua_detrac
from vodet.errors import ConfigError, DataError

IGNORED = '<ignored_region><box left="40" top="0" width="10.5" height="9"/></ignored_region>\n'
OVERLAP = '<occlusion><region_overlap left="1" occlusion_status="1"/></occlusion>'


def target(number: int, left: object = 4, kind: str = "car", more: str = "") -> str:
    return (
        f'<target id="{number}"><box left="{left}" top="5.5" width="20" height="10"/>\n'
        f'<attribute orientation="18" truncation_ratio="0.1" vehicle_type="{kind}"/>{more}</target>'
    )


def frame(number: int, *targets: str) -> str:
    return (
        f'<frame density="1" num="{number}"><target_list>{"".join(targets)}</target_list></frame>\n'
    )


@pytest.fixture
def detrac(tmp_path, image):
    def write(*frames: str, ignored: str = IGNORED, name: str = "MVI_1", part: str = "Train"):
        root = tmp_path / "detrac"
        for number in (1, 2, 3):
            path = f"Insight-MVT_Annotation_{part}/{name}/img{number:05d}.jpg"
            image(root / path, 48, 64)
        path = root / f"DETRAC-{part}-Annotations-XML/{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'<sequence name="{name}">\n{ignored}{"".join(frames)}</sequence>')
        return root

    return write


def test_objects_and_ignored_regions_in_every_frame(detrac, convert):
    detrac(part="Test", name="MVI_2")
    root = detrac(frame(1, target(1), target(2, kind="others", more=OVERLAP)), frame(3, target(1)))

    found = convert(read_ua_detrac(root, split="train"))

    region = [(name, (40, 0, 10.5, 9), None, 1) for name in ("car", "van", "bus", "others")]
    car = ("car", (4, 5.5, 20, 10), "1", 0)
    assert found.frames == {
        ("MVI_1", 1): [car, ("others", (4, 5.5, 20, 10), "2", 0), *region],
        ("MVI_1", 2): region,  # not in the file: no objects
        ("MVI_1", 3): [car, *region],
    }
    assert [a.get("occluded") for a in found.annotations[:3]] == ["0", "1", None]
    assert found.images[0]["file_name"] == "Insight-MVT_Annotation_Train/MVI_1/img00001.jpg"
    part = read_ua_detrac(
        root / "DETRAC-Train-Annotations-XML",
        images=root / "Insight-MVT_Annotation_Train",
        sequences={"MVI_1": range(3, 4)},
    )
    assert list(convert(part).frames) == [("MVI_1", 3)]


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (frame(1, target(1, kind="tram")), "line 4: attribute: .*car, van, bus, others.*'tram'"),
        (frame(1, target(1, left="x")), "line 3: box: .*left: .*'x'"),
        (frame(1, target(1, left="")), "line 3: box: .*attribute left, found none"),
        (frame(1, '<target id="1"/>'), "line 3: target: .*box and attribute"),
        (frame(4, target(1)), "line 3: .*found frame 4"),
        (frame("first"), "line 3: frame: .*num.*'first'"),
    ],
)
def test_malformed_elements_are_named(detrac, wrong, found):
    root = detrac(wrong)

    with pytest.raises(DataError, match=rf"MVI_1\.xml: {found}"):
        list(read_ua_detrac(root, split="train").videos)


def test_what_is_missing(detrac, tmp_path):
    root = detrac()
    with pytest.raises(ConfigError, match="--split: expected one of train, test; found val"):
        read_ua_detrac(root, split="val")
    with pytest.raises(DataError, match=r"Expected sequences in .*detrac"):
        read_ua_detrac(root)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DataError, match=r"folder of images at .*elsewhere"):
        list(read_ua_detrac(root, split="train", images=tmp_path / "elsewhere").videos)
