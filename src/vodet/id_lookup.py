"""Finds rows of tables by integer ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_PAIRS = 1_000_000  # number of pairs per part: limits memory use for crowded frames
_SPAN = 20_000_000  # maximum range of ids for a lookup array with one entry per possible id


def positions_in(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the position of each value in a table of distinct ids, -1 for missing values.

    Args:
        table: ``[M]`` int64.
        values: ``[N]`` int64.
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
    """Find all pairs of rows with equal ids in two tables, and yield them in parts.

    Args:
        ids: ``[N]`` int64.
        other_ids: ``[M]`` int64.

    Yields:
        Rows ``[P]`` of the first table, ascending over all parts, and the paired rows ``[P]`` of
        the second table, ascending for each row of the first table.
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
