from __future__ import annotations

from pathlib import Path

import pytest

from vodet.names import file_names, visible

HOSTILE = [
    "a b", "a_b", "A_B", "a/b", "a\\b", "a:b", "..", ".", "", " ", "x\x00y", "x\ny", "x\x1b[31my",
    "行人" * 80, "行人" * 80 + "x", "e\u0301", "\xe9", "a" * 240, "a" * 239 + "b",
    "../../etc/passwd",     "a b", "name.", "[/red] x", "\udcff", "a-2", "a", "a",
]  # fmt: skip


def test_file_names_are_distinct_files_of_one_folder(tmp_path: Path) -> None:
    names = file_names(HOSTILE)
    assert len({name.casefold() for name in names}) == len(HOSTILE)
    for name in names:
        (tmp_path / f"{name}_detections.jsonl").write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}_detections.jsonl" for name in names
    )
    assert not set('<>:"/\\|?*') & set("".join(names))


def test_plain_names_stay() -> None:
    plain = ["street", "a b", "行人", "[1] x", "2024-05-01 12.30", "x_y-z"]
    assert file_names(plain) == plain
    assert file_names(file_names(HOSTILE)) == file_names(HOSTILE)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("car", "car"),
        ("行人 [/red]", "行人 [/red]"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\x9bb", r"a\x9bb"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
        ("\udcff", r"\udcff"),
        ("क्\u200dष", "क्\u200dष"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_visible_keeps_what_it_is_told_to() -> None:
    assert visible("a\nb\x1b", keep="\n") == "a\nb\\x1b"
