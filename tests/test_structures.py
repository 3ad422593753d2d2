from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch

from tiny import frame_info
from vodet.encodings import FeatureMaps, FeatureSpec, TemporalMemory
from vodet.errors import ConfigError
from vodet.structures import Window


@pytest.mark.parametrize(
    ("window", "offsets", "reference", "lookback", "lookahead"),
    [
        (Window(), (0,), 0, 0, 0),
        (Window(past=1, frame_stride=2), (-2, 0), 1, 2, 0),
        (Window(past=2, future=1, frame_stride=3), (-6, -3, 0, 3), 2, 6, 3),
        (Window(future=2), (0, 1, 2), 0, 0, 2),
    ],
)
def test_window(
    window: Window, offsets: tuple[int, ...], reference: int, lookback: int, lookahead: int
) -> None:
    assert window.offsets == offsets
    assert window.offsets[window.reference] == 0
    assert window.reference == reference
    assert (window.lookback, window.lookahead) == (lookback, lookahead)


@pytest.mark.parametrize("numbers", [(-1, 0, 1), (0, -1, 1), (0, 0, 0)])
def test_windows_that_cannot_be(numbers: tuple[int, int, int]) -> None:
    past, future, frame_stride = numbers
    found = f"found past={past}, future={future}, frame_stride={frame_stride}"
    with pytest.raises(ConfigError, match=found):
        Window(*numbers)


@pytest.mark.parametrize(
    ("channels", "strides"), [((), ()), ((8,), (4, 8)), ((8, 8), (8, 4)), ((8, 8), (4, 4))]
)
def test_levels_that_cannot_be(channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="one channel number and one stride per level, ascending"):
        FeatureSpec(channels, strides)


def test_maps_are_indexed_by_level() -> None:
    maps = FeatureMaps((torch.arange(6.0).view(3, 2), torch.arange(3.0).view(3, 1)))
    assert len(maps) == 3
    assert [level.tolist() for level in maps[1:].levels] == [[[2, 3], [4, 5]], [[1], [2]]]


def test_memory_is_a_value() -> None:
    memory = TemporalMemory()
    assert memory == TemporalMemory(answered=0)
    with pytest.raises(FrozenInstanceError):
        memory.answered = 1  # type: ignore[misc]  # what is tested


def test_a_frame_says_where_it_is() -> None:
    assert str(frame_info("street", 3)) == "video 'street' frame 3 (image id 3)"
