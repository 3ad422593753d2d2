from __future__ import annotations

from pathlib import Path

import pytest

from vodet.errors import OutputError
from vodet.files import remove_partial, replacing


def test_the_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "file.txt"
    with replacing(target) as partial:
        partial.write_text("new")
        assert not target.exists()
        assert partial.parent == target.parent
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")

    def write_half() -> None:
        with replacing(target) as partial:
            partial.write_text("half")
            raise OSError(28, "disk full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_error_names_the_file_to_write(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("a file")
    (tmp_path / "folder").mkdir()
    for name, found in (
        ("file.txt/out.txt", "Not a directory|File exists"),
        ("folder", "directory"),
    ):
        target = tmp_path / name
        with (
            pytest.raises(OutputError, match=rf"^Cannot write {target}: .*({found})"),
            replacing(target) as partial,
        ):
            partial.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", "folder"}


def test_errors_of_other_files_are_left_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "out.txt"):
        (tmp_path / "nowhere").read_text()


def test_names_may_be_as_long_as_they_can_be(tmp_path: Path) -> None:
    for name in ("x" * 255, "行" * 85):
        with replacing(tmp_path / name) as partial:
            partial.write_text("new")
        assert (tmp_path / name).read_text() == "new"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    replacement = replacing(tmp_path / "file.txt")
    partial = replacement.__enter__()  # and never left
    partial.write_text("half")
    (tmp_path / "other.txt").write_text("whole")
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]
