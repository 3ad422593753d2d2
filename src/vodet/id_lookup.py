"""Looks up integer ids in arrays of ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_PAIRS = 1_000_000  # about this many pairs are yielded at a time, to limit memory use
_SPAN = 20_000_000  # maximum range of ids for a lookup array with one entry per possible id


def positions_in(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Look up each value in an array of distinct ids.

    Args:
        table: The ids, ``[M]`` int64, in any order.
        values: The ids to look up, ``[N]`` int64.

    Returns:
        The index of each value in ``table``, ``[N]`` int64; -1 for values that it lacks.
    """
    if not table.size:
        return np.full(len(values), -1)
    first, last = int(table.min()), int(table.max())
    if last - first >= _SPAN:
        order = np.argsort(table)
        nearest = order[np.searchsorted(table, values, sorter=order).clip(max=len(table) - 1)]
        return np.where(table[nearest] == values, nearest, -1)
    positions = np.full(last - first + 2, -1)  # the last entry is for values outside the range
    positions[table - first] = np.arange(len(table))
    is_between = (values >= first) & (values <= last)
    return positions[np.where(is_between, values - first, -1)]


def pairs_of_equal_ids(
    ids: np.ndarray, other_ids: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Find all pairs ``(i, j)`` with ``ids[i] == other_ids[j]``.

    The pairs are yielded in several batches, to limit memory use.

    Args:
        ids: ``[N]`` int64.
        other_ids: ``[M]`` int64.

    Yields:
        Two arrays ``[P]`` with ``i`` and ``j`` of ``P`` pairs. The pairs of all batches are sorted
        by ``i``, then by ``j``.
    """
    order = np.argsort(other_ids, kind="stable")
    distinct, starts, lengths = np.unique(other_ids[order], return_index=True, return_counts=True)
    found = positions_in(distinct, ids)
    rows = np.flatnonzero(found >= 0)
    found = found[rows]
    counts = lengths[found]
    parts = np.cumsum(counts) // _PAIRS
    for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(parts)) + 1):
        first = np.repeat(rows[part], counts[part])
        ends = np.cumsum(counts[part])
        within = np.arange(len(first)) - np.repeat(ends - counts[part], counts[part])
        yield first, order[np.repeat(starts[found[part]], counts[part]) + within]
