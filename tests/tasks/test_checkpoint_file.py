from __future__ import annotations

import os
import pickle
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch

import vodet
from tasks.small_checkpoint import contents, detector
from vodet.errors import CheckpointError
from vodet.tasks.checkpoint import AtomicCheckpointIO, load_weights, read_checkpoint
from vodet.tasks.checkpoint_file import WHAT_READS_WHAT
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.init_from import init_from
from vodet.tasks.restricted_pickle import read_pickle
from vodet.tasks.weights import read_weights

READERS: dict[str, Callable[[Path], Any]] = {
    "vodet.load": vodet.load,
    "load_weights": lambda path: load_weights(detector(), path),
    "init_from": lambda path: init_from(detector(), path),
    "resume": AtomicCheckpointIO().load_checkpoint,
    "Lightning": lambda path: VideoDetectionTask.load_from_checkpoint(path, detector=detector()),
    "import-weights": read_weights,
}


def message_of(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.ckpt"
    torch.save(contents(), path)
    return path


@pytest.mark.parametrize("name", READERS)
def test_zeros_in_the_middle(name: str, path: Path) -> None:
    data = bytearray(path.read_bytes())
    with ZipFile(path) as archive:
        member = max(archive.infolist(), key=lambda member: member.file_size)
    start = member.header_offset + len(member.filename) + 200
    data[start : start + 100] = bytes(100)
    path.write_bytes(data)

    message = message_of(READERS[name], path)

    assert f"The checkpoint {path} is damaged" in message
    assert f"Bad CRC-32 for file {member.filename!r}" in message


def test_every_member_is_checked(path: Path) -> None:
    whole = path.read_bytes()
    with ZipFile(path) as archive:
        members = archive.infolist()
    assert len(members) > 20
    for member in members:
        data = bytearray(whole)
        offset = data.index(member.filename.encode(), member.header_offset)
        extra = int.from_bytes(
            data[member.header_offset + 28 : member.header_offset + 30], "little"
        )
        data[offset + len(member.filename) + extra] ^= 1
        path.write_bytes(data)
        assert repr(member.filename) in message_of(vodet.load, path)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
def test_truncated(name: str, kept: float, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept == 0.5 else int(kept)])
    message = message_of(READERS[name], path)
    assert f"The checkpoint {path} is damaged" in message
    if kept in (100, 0.5, -1):
        assert f"its {path.stat().st_size} bytes" in message


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def below_a_file(path: Path) -> None:
    path.parent.write_bytes(b"")


def without_permission(path: Path) -> None:
    path.write_bytes(b"a")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (pipe, "found a pipe or a device"),
        (link_to_device, "found a pipe or a device"),
        (Path.mkdir, "found a folder"),
        (link_to_itself, "Too many levels of symbolic links"),
        (below_a_file, "Not a directory"),
        (without_permission, "Permission denied"),
        (lambda path: None, "found no such file"),
    ],
)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file(
    name: str, make: Callable[[Path], Any], found: str, tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "a.ckpt"
    if make is not below_a_file:
        path.parent.mkdir()
    make(path)
    message = message_of(READERS[name], path)
    assert message.count(str(path)) == 1
    assert found in message


def test_members_that_unpack_to_more_than_the_file_holds(path: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.ckpt"
    with ZipFile(path) as archive, ZipFile(bomb, "w", ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
        packed.writestr("archive/data/999", bytes(10**7))
    message = message_of(read_checkpoint, bomb)
    claimed, size = (int(n) for n in re.findall(r"(\d+) bytes, but the file has (\d+)", message)[0])
    assert claimed > 10**7
    assert size == bomb.stat().st_size < 10**6


def test_two_members_of_one_name(path: Path) -> None:
    with ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(archive.namelist()[0], b"")
    assert "two of its members" in message_of(read_checkpoint, path)


def test_a_storage_that_claims_more_than_its_member(tmp_path: Path) -> None:
    """The reader of torch trusts the size in the pickle."""
    path = tmp_path / "a.pth"
    torch.save({"model": {"a": torch.ones(1000)}}, path)
    data = bytearray(path.read_bytes())
    with ZipFile(path) as archive:
        pickled = archive.read("a/data.pkl")
    larger = pickled.replace(b"M\xe8\x03", b"M\xe8\x7f")
    assert larger != pickled
    start = data.index(pickled)
    data[start : start + len(pickled)] = larger
    old, new = (zlib.crc32(text).to_bytes(4, "little") for text in (pickled, larger))
    path.write_bytes(bytes(data).replace(old, new))

    assert str(path) in message_of(read_pickle, path)


@pytest.mark.parametrize("is_zip", [False, True])
def test_bytes_after_the_end(is_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": {"a": torch.ones(3)}}, path, _use_new_zipfile_serialization=is_zip)
    assert read_pickle(path)["model"]["a"].tolist() == [1, 1, 1]
    with path.open("ab") as file:
        file.write(b"\0" * 70_000)
    assert "is damaged" in message_of(read_pickle, path)


@pytest.mark.parametrize("is_zip", [False, True])
def test_only_files_with_checksums_are_checkpoints_of_vodet(is_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(contents(), path, _use_new_zipfile_serialization=is_zip)
    if is_zip:
        assert vodet.load(path).class_names == ("car", "dog", "kite")
    else:
        message = message_of(vodet.load, path)
        assert "signature of a zip file" in message
        assert WHAT_READS_WHAT in message


def test_a_memo_that_claims_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    assert read_pickle(path) == {}


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_another_kind(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"8\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}')
    message = message_of(READERS[name], path)
    assert str(path) in message
    assert WHAT_READS_WHAT in message


def test_a_name_that_no_file_can_have() -> None:
    assert "null byte" in message_of(vodet.load, Path("a\0b"))


@pytest.mark.parametrize("is_zip", [False, True])
@pytest.mark.parametrize("is_plain_pickle", [False, True])
def test_tensors_larger_than_their_storage(
    is_plain_pickle: bool, is_zip: bool, tmp_path: Path
) -> None:
    """Torch would enlarge the storage and leave in it what was in memory."""
    path = tmp_path / "a.pth"
    content = {"model": {"a": Enlarged(torch.ones(4))}}
    if is_plain_pickle:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    assert "is damaged" in message_of(read_pickle, path)


class Enlarged:
    """Pickles as a tensor that claims a gigabyte."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> tuple[Any, ...]:
        function, (storage, offset, _, *others) = self.tensor.__reduce_ex__(2)
        return function, (storage, offset, (2**28,), *others)
