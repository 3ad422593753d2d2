from __future__ import annotations

import codecs
import gzip
import json
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.formats.cityscapes_masks import polygon_boxes
from vodet.data.formats.coco import read_coco, read_coco_ids
from vodet.data.formats.cocovid import read_cocovid
from vodet.errors import DataError
from vodet.json_files import decode_json, parse_json, read_json
from vodet.metrics.results_file import read_predictions
from vodet.structures import GroundTruth

TEXT = '{"name": "vidéo 行人"}'


class Named(msgspec.Struct):
    name: str


class Numbered(msgspec.Struct):
    number: int


def read(path: Path, kind: type[Any] = Named) -> Any:
    return decode_json(read_json(path, "a file"), kind, path)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]
)
def test_all_encodings_of_json(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(TEXT.encode(encoding))
    assert read(path).name == "vidéo 行人"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (TEXT.encode("utf-8")[:-4] + b"\xff" + b'"}', "not UTF-8 at byte 20"),
        ('{"name": "vidéo"}'.encode("latin-1"), "not UTF-8 at byte 13"),
        (codecs.BOM_UTF8 + b'{"name": "\xe9"}', "not UTF-8 at byte 13"),
        (codecs.BOM_UTF16_LE + b'{\0"\0a', "not UTF-16 at byte 6"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"name": "a\\ud800b"}', r"\\ud800, at byte 11"),
        (b'{"name": "a\\\\ud83d\\ud83d\\ude00\\udc00b"}', r"\\udc00, at byte 30"),
        (b'{"name": "a", }', "line 1 column"),
        (b"", "line 1 column 1"),
    ],
)
def test_what_is_wrong_and_where(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.json is not valid JSON: .*{found}"):
        read(path)


def test_whole_numbers_and_infinite_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"number": 3.0, "other": NaN}')
    assert read(path, Numbered).number == 3
    assert parse_json(b'{"other": -Infinity}', path) == {"other": -np.inf}
    for value in ("3.5", "true", '"3"', "1e400"):
        path.write_text(f'{{"number": {value}}}')
        with pytest.raises(msgspec.ValidationError, match="int"):
            read(path, Numbered)


def test_packed_files_have_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(TEXT.encode("utf-16")))
    assert read(path).name == "vidéo 行人"
    path.write_bytes(gzip.compress(b" " * 10**7))
    with pytest.raises(DataError, match=r"a\.json\.gz: it unpacks to more than 1,000,000 bytes"):
        read_json(path, "a file", max_unpacked=10**6)
    path.write_bytes(gzip.compress(TEXT.encode())[:-9])
    with pytest.raises(DataError, match=r"Cannot read .*a\.json\.gz"):
        read_json(path, "a file")


def test_the_content_says_whether_a_file_is_packed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "b.json.gz").write_text(TEXT)
    assert read(tmp_path / "a.json") == read(tmp_path / "b.json.gz") == Named("vidéo 行人")


def polygons(path: Path) -> None:
    from collections import Counter

    polygon_boxes(path, (4, 4), Counter())


def predictions(path: Path) -> None:
    none = np.zeros(0, np.int64)
    read_predictions(
        path,
        GroundTruth(
            class_names=("a",),
            category_ids=np.array([1]),
            image_ids=none,
            sizes=np.zeros((0, 2), np.int32),
            videos=none,
            frame_numbers=np.zeros(0, np.int32),
            box_starts=np.zeros(1, np.int64),
            boxes=np.zeros((0, 4), np.float32),
            labels=none,
            track_ids=np.zeros(0, np.int32),
            areas=np.zeros(0, np.float32),
            iscrowd=np.zeros(0, bool),
            attribute_names=(),
            video_attributes=np.zeros((0, 0), bool),
            video_names=(),
            source="a",
        ),
    )


READERS: list[Callable[[Path], Any]] = [
    read_st_coco, read_cocovid, read_coco, read_coco_ids, polygons, predictions
]  # fmt: skip


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


SPECIAL: dict[str, Callable[[Path], Any]] = {
    "named pipe": make_pipe,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": make_socket,
    "directory": Path.mkdir,
    "symbolic links": lambda path: path.symlink_to(path.name),
    "found none": lambda path: path.symlink_to("nowhere"),
    "not valid JSON": Path.touch,
    "not UTF-8 at byte 1": lambda path: path.write_bytes(b'"\xe9"'),
    "nested too deeply": lambda path: path.write_bytes(b'{"images":' * 50_000),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("found", SPECIAL)
def test_no_reader_of_json_takes_what_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Callable[[Path], Any], found: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    SPECIAL[found](Path("a.json"))
    with pytest.raises(DataError, match=rf"a\.json.*{found}"):
        reader(Path("a.json"))


read_coco_videos = partial(read_coco, videos_from="field")


@pytest.mark.parametrize("reader", [read_st_coco, read_coco_videos])
def test_odd_values_are_named_with_their_entry(
    tmp_path: Path, reader: Callable[[Path], Any]
) -> None:
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    image = {"id": 1.0, "file_name": "a.jpg", "height": 4, "width": 4}
    good = {
        "images": [image | {"video": "v", "frame_number": 0}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1.0, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(good))
    reader(path)
    odd = {
        "image_id": [2**63, 10**30, True, 1.5, "1", deep],
        "bbox": [[0, 0, float("nan"), 1], [10**400, 0, 1, 1], ["x" * 10**6] * 4, deep],
    }
    for field, values in odd.items():
        for value in values:
            annotation = good["annotations"][0] | {field: value}  # type: ignore[operator]
            path.write_text(json.dumps(good | {"annotations": [annotation]}))
            with pytest.raises(DataError, match=rf"annotations\[0\]\.{field}") as caught:
                reader(path)
            assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("reader", [read_st_coco, read_coco_videos])
def test_a_table_that_stands_in_a_file_twice(
    tmp_path: Path, reader: Callable[[Path], object]
) -> None:
    path = tmp_path / "a.json"
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 4, "video": "v"}
    image |= {"frame_number": 0, "note": "images", "tags": ["annotations", {"annotations": 1}]}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}
    document = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "x"}]}
    path.write_text(json.dumps(document))
    assert reader(path)
    path.write_text(json.dumps(document)[:-1] + ', "annotations": []}')
    with pytest.raises(DataError, match=r"a\.json.*'annotations' twice"):
        reader(path)
