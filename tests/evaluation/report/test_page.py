from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from evaluation.report.made import MEASURES, empty_run, made_data, noisy_run
from vodet.errors import ConfigError
from vodet.evaluation.report.analysis import EvaluatedData, Run
from vodet.evaluation.report.page import percent, signed, write_report

HOSTILE = '<script>alert("1")</script>'
VOID = {"meta", "img", "br", "link", "input"}
SHAPES = {"rect", "line", "polyline"}


class Page(HTMLParser):
    """Parses a page, and fails if its elements are not nested properly."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attrs)))
        self.text += " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def words(self) -> str:
        return " ".join(self.text.split())


def written(folder: Path, data: EvaluatedData, *runs: Run) -> Page:
    path = folder / "out" / "report.html"
    write_report(path, data, runs, MEASURES)
    return Page(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedData:
    return made_data(tmp_path_factory.mktemp("report") / "set")


@pytest.fixture(scope="module")
def page(data: EvaluatedData, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return written(tmp_path_factory.mktemp("page"), data, noisy_run(data, "first"))


def test_shows_the_numbers_of_the_protocols(data: EvaluatedData, page: Page) -> None:
    result = noisy_run(data, "first").result
    assert 0.1 < result["map_50"] < 0.9
    for title, key in (("COCO AP50", "map_50"), ("VID AP50", "vid/ap_50"), ("COCO AP", "map")):
        assert f"{title} {100 * result[key]:.1f} " in page.words()
    for title in ("Misses", "Drop-outs", "False alarms", "Class switches"):
        assert f" {title} " in page.words()
    assert "3 videos 27 annotated frames 54 objects 2 classes" in page.words()


def test_needs_no_network(page: Page) -> None:
    links = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "poster", "data", "action", "srcset", "background")
    ]
    assert len(links) > 20
    assert {link.partition(":")[0] if link[0] != "#" else "#" for link in links} == {"#", "data"}
    assert "url(" not in page.text
    assert "@import" not in page.text
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none';")


def test_pictures_and_videos_of_an_event(page: Page) -> None:
    images = [image["src"] for image in page.all("img")]
    videos = page.all("video")
    assert 4 <= len(videos) < len(images)
    for source in images:
        start, _, content = source.partition(",")
        assert start == "data:image/jpeg;base64"
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), 1)
        assert picture.shape == (240, 320, 3)
    start, _, content = videos[0]["src"].partition(",")
    assert start == "data:video/mp4;base64"
    with av.open(io.BytesIO(base64.b64decode(content))) as container:
        (stream,) = container.streams.video
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height) == (480, 360)
        frames = sum(1 for _ in container.decode(stream))
    seconds = [float(button["data-seconds"]) for button in page.all("button")]
    assert 0 < min(seconds) < max(seconds) < frames / 8


def test_names_are_text(tmp_path: Path) -> None:
    hostile = made_data(
        tmp_path / "set",
        class_names=(HOSTILE, "'\" onload=alert(2) x='\u202e"),
        video_names=(HOSTILE + "<img src=x>", "\x1b[31m]]>", "a\u202eb"),
    )
    page = written(tmp_path, hostile, noisy_run(hostile, "</title>" + HOSTILE))
    assert len(page.all("script")) == 1
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert {name for _, own in page.elements for name in own if name.startswith("on")} == set()
    assert page.text.count(HOSTILE) > 5
    assert "\\x1b[31m" in page.text
    assert "\\u202e" in page.text
    assert not re.search("[\x1b\u202e]", page.text)


def test_no_detections(data: EvaluatedData, tmp_path: Path) -> None:
    page = written(tmp_path, data, empty_run(data))
    assert "nothing has no detections." in page.words()
    assert "not found in 9 of 9 frames" in page.words()


def test_no_objects(tmp_path: Path) -> None:
    data = made_data(tmp_path / "set", tracks=0)
    page = written(tmp_path, data, empty_run(data))
    assert "The data have no objects" in page.words()
    assert "the annotations have no track ids" in page.words()
    assert page.all("video") == []


def test_one_class_and_one_frame(tmp_path: Path) -> None:
    data = made_data(tmp_path / "set", class_names=["car"], video_names=["a"], frames=1)
    page = written(tmp_path, data, noisy_run(data, "first"), noisy_run(data, "second", seed=1))
    assert "- to -" in page.words()  # no intervals


def test_images_that_are_missing_or_not_known(tmp_path: Path) -> None:
    data = made_data(tmp_path / "set")
    for image in (tmp_path / "set" / "images").glob("10*.jpg"):
        image.unlink()
    page = written(tmp_path, data, noisy_run(data, "first"))
    assert re.search(r"images/10\d\.jpg \(image id 10\d\): expected an image", page.text)
    assert "Set data.images=FOLDER" not in page.text
    page = written(tmp_path, replace(data, images=None), noisy_run(data, "first"))
    assert "Set data.images=FOLDER" in page.text
    assert len(page.all("video")) >= 4


def test_runs_side_by_side(data: EvaluatedData, tmp_path: Path) -> None:
    runs = noisy_run(data, "alone", found=0.4), noisy_run(data, "fused", seed=1, found=0.9)
    page = written(tmp_path, data, *runs)
    ap = [100 * run.result["map_50"] for run in runs]
    change = f"{ap[1] - ap[0]:+.1f}"
    assert f"AP50 54 {ap[0]:.1f} {ap[1]:.1f} {change} " in page.words()
    assert "Found by fused alone" in page.words()
    assert "Found by alone alone" in page.words()
    assert {image["src"] for image in page.all("img")}
    picture = page.all("img")[0]["src"].partition(",")[2]
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), 1)
    assert decoded.shape == (480, 320, 3)  # one frame below the other


def test_runs_need_names_of_their_own(data: EvaluatedData, tmp_path: Path) -> None:
    run = empty_run(data)
    for runs in ((), (run, run)):
        with pytest.raises(ConfigError, match="different names"):
            write_report(tmp_path / "report.html", data, runs, MEASURES)
    assert list(tmp_path.iterdir()) == []


def test_numbers_as_text() -> None:
    assert (percent(0.1234), percent(float("nan")), percent(2.5, 1.0)) == ("12.3", "-", "2.5")
    assert (signed(0.05), signed(-0.05), signed(float("nan"))) == ("+5.0", "-5.0", "-")
