from __future__ import annotations

import numpy as np
import pytest

from vodet.metrics.results_file import shortest_decimals


@pytest.mark.parametrize("value", [0.1, 1279.99, 0.3333333, 12.25, 7e-7, 0.0, -3.3])
def test_decimals_are_those_that_were_rounded_to_float32(value):
    assert shortest_decimals(np.array([value], np.float32)).tolist() == [value]


def test_every_float32_is_kept():
    values = np.random.default_rng(0).integers(0, 2**31 - 2**24, 10_000).astype(np.int32)
    values = values.view(np.float32)  # of all magnitudes

    np.testing.assert_array_equal(shortest_decimals(values).astype(np.float32), values)
