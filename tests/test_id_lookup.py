from __future__ import annotations

import numpy as np
import pytest

from vodet import id_lookup
from vodet.id_lookup import pairs_of_equal_ids, positions_in


@pytest.mark.parametrize("scale", [1, 10**12])  # looked up; searched
def test_positions_in(scale: int) -> None:
    table = np.array([30, 10, 20]) * scale
    values = np.array([10, 30, 5, 20, 99, 11, -1]) * scale
    assert positions_in(table, values).tolist() == [1, 0, -1, 2, -1, -1, -1]
    assert positions_in(table[:0], values[:1]).tolist() == [-1]
    assert positions_in(table, values[:0]).tolist() == []


@pytest.mark.parametrize("scale", [1, 10**12])
@pytest.mark.parametrize("at_once", [3, 10**6])
def test_pairs_of_equal_ids(monkeypatch: pytest.MonkeyPatch, scale: int, at_once: int) -> None:
    monkeypatch.setattr(id_lookup, "_PAIRS", at_once)
    rng = np.random.default_rng(0)
    own, others = rng.integers(0, 9, 30) * scale, rng.integers(3, 12, 20) * scale

    parts = list(pairs_of_equal_ids(own, others))

    found = [pair for rows, partners in parts for pair in zip(rows, partners, strict=True)]
    assert found == [(i, j) for i in range(30) for j in range(20) if own[i] == others[j]]
    assert len(parts) > 5 if at_once == 3 else len(parts) == 1
    assert not [pair for part in pairs_of_equal_ids(own, others[:0]) for pair in part[0]]
