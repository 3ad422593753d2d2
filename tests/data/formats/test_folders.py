from __future__ import annotations

import pytest

from vodet.data.formats.folders import read_sequences
from vodet.errors import ConfigError


def test_lists_of_sequences(text, tmp_path):
    seqmap = text(
        tmp_path / "val.seqmap", "0002 empty 000000 000232", "", "0003 empty 000005 000005"
    )

    assert read_sequences("A,B") == {"A": None, "B": None}
    assert read_sequences(str(text(tmp_path / "a.txt", "name", "A", "B"))) == {"A": None, "B": None}
    assert read_sequences(str(seqmap)) == {"0002": range(233), "0003": range(5, 6)}


def test_more_names_than_a_path_may_be_long():
    names = [f"MOT17-{number:02d}-FRCNN" for number in range(300)]

    assert list(read_sequences(",".join(names))) == names


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["A", "B 1 2"], r"list\.txt, line 2: .*found 'B 1 2'"),
        (["A empty 5 4"], r"list\.txt, line 1: .*found 'A empty 5 4'"),
        (["A", "A empty 0 4"], "expected each sequence once, found A twice"),
        (["name"], "--sequences: .*found no name"),
    ],
)
def test_malformed_lists_are_refused(text, tmp_path, lines, message):
    with pytest.raises(ConfigError, match=message):
        read_sequences(str(text(tmp_path / "list.txt", *lines)))


@pytest.mark.parametrize(("names", "message"), [(",", "expected names"), ("A,B,A", "A twice")])
def test_malformed_names_are_refused(names, message):
    with pytest.raises(ConfigError, match=message):
        read_sequences(names)
