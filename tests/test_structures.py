from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch

from tiny import frame_info
from vodet.encodings import EncodedFrames, FeatureMaps, FeatureSpec, Memory, WindowBatch
from vodet.errors import ConfigError
from vodet.structures import ClipLayout, Window


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


@pytest.mark.parametrize(("channels", "strides"), [((), ()), ((8,), (4, 8)), ((8, 8), (8, 4))])
def test_levels_that_cannot_be(channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"do not decrease .*; found channels=\("):
        FeatureSpec(channels, strides)


def test_maps_are_indexed_by_level() -> None:
    maps = FeatureMaps((torch.arange(6.0).view(3, 2), torch.arange(3.0).view(3, 1)))
    assert len(maps) == 3
    assert [level.tolist() for level in maps[1:].levels] == [[[2, 3], [4, 5]], [[1], [2]]]


def test_memory_is_a_value() -> None:
    memory = Memory({"fusion": {}, "head": {}})
    assert memory == Memory({"fusion": {}, "head": {}})
    with pytest.raises(FrozenInstanceError):
        memory.states = {}  # type: ignore[misc]  # what is tested


def encoded(first: int, count: int) -> EncodedFrames:
    """Frames of one cell, numbered in all that is known of them."""
    numbers = torch.arange(first, first + count)
    maps = FeatureMaps((numbers.view(-1, 1, 1, 1).float(),))
    sizes = torch.stack((numbers, numbers + 100), dim=1)
    return EncodedFrames(maps, sizes, {"head.number": numbers, "fusion.number": -numbers})


def test_windows_show_their_frames_by_place() -> None:
    windows = WindowBatch.of(encoded(0, 4), torch.tensor([[3, 1, 0], [2, 2, 1]]), reference=1)
    assert len(windows) == 2
    assert windows.maps.levels[0].view(2, 3).tolist() == [[3, 1, 0], [2, 2, 1]]
    assert windows.reference_maps.levels[0].flatten().tolist() == [1, 2]
    assert windows.sizes.tolist() == [[1, 101], [2, 102]]
    assert windows.extra("head.number").tolist() == [[3, 1, 0], [2, 2, 1]]
    assert [windows.places[place].extra("head.number").tolist() for place in range(3)] == [
        [3, 2],
        [1, 2],
        [0, 1],
    ]
    own = windows.seen_by("fusion")
    assert own.extra("number").tolist() == [[-3, -1, 0], [-2, -2, -1]]
    assert own.current.extra("number").tolist() == [-1, -2]
    assert set(own.frames.extras) == set(own.current.frames.extras) == {"number"}


def test_fused_windows_have_other_reference_frames_alone() -> None:
    windows = WindowBatch.of(encoded(0, 4), torch.tensor([[3, 1], [1, 2]]), reference=1)
    fused = windows.fused(encoded(10, 2))
    assert fused.reference_maps.levels[0].flatten().tolist() == [10, 11]
    assert fused.sizes.tolist() == [[10, 110], [11, 111]]
    assert fused.places[1].extra("head.number").tolist() == [10, 11]
    assert fused.places[0].extra("head.number").tolist() == [3, 1]
    assert fused.maps.levels[0].view(2, 2).tolist() == [[3, 1], [1, 2]]


def test_windows_of_clips_lie_one_after_the_other() -> None:
    windows = WindowBatch.of_clips(encoded(0, 6), 3, 2)
    assert windows.index.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert windows.reference_maps.levels[0].flatten().tolist() == [2, 5]


def test_the_layout_of_a_clip_knows_the_window_of_its_reference_frame() -> None:
    assert ClipLayout.of_window(3, 1) == ClipLayout(((0, 1, 2),), 1, 1)
    layout = ClipLayout(((0, 0), (0, 1), (1, 2)), reference=1, reference_frame=1)
    assert layout.reference_window == (0, 1)


def test_a_frame_says_where_it_is() -> None:
    assert str(frame_info("street", 3)) == "video 'street' frame 3 (image id 3)"
