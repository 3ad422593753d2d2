from __future__ import annotations

import numpy as np
import pytest

from vodet.data.annotations.columns import PackedStrings, starts_of


@pytest.mark.parametrize("strings", [[], [""], ["a", "", "日本/ü.jpg", "b"]])
def test_packed_strings(strings: list[str]) -> None:
    packed = PackedStrings.pack(strings)
    assert list(packed) == strings
    reverse = np.arange(len(strings))[::-1]
    assert list(packed.reorder(reverse)) == strings[::-1]


def test_starts_of() -> None:
    assert starts_of(np.array([2, 0, 3])).tolist() == [0, 2, 2, 5]
    assert starts_of(np.array([], np.int64)).tolist() == [0]
