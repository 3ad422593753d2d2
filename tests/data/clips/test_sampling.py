from __future__ import annotations

import numpy as np
import pytest

from vodet.data.clips.sampling import (
    ClipDraw,
    TemporalDropout,
    clip_generator,
    evenly_spaced,
    memory_references,
    reference_frames,
    window_positions,
)
from vodet.errors import ConfigError
from vodet.structures import Window


def test_window_inside_a_video():
    offsets = Window(past=2, future=1, frame_stride=3).offsets

    assert window_positions(10, 100, offsets) == [4, 7, 10, 13]


def test_borders_repeat_the_nearest_frame():
    offsets = Window(past=2, future=2).offsets

    assert window_positions(0, 3, offsets) == [0, 0, 0, 1, 2]
    assert window_positions(2, 3, offsets) == [0, 1, 2, 2, 2]


def test_a_still_image_is_a_video_of_one_frame():
    assert window_positions(0, 1, Window(past=1, future=2, frame_stride=5).offsets) == [0] * 4


def test_temporal_dropout_chooses_in_order_and_keeps_the_reference_in_its_place():
    window, dropout = Window(past=4, future=3, frame_stride=2), TemporalDropout(past=2, future=1)

    drawn = {dropout.offsets(window, clip_generator(0, ClipDraw(0, clip))) for clip in range(300)}

    assert all(offsets == tuple(sorted(set(offsets))) for offsets in drawn)
    assert all(offsets[dropout.past] == 0 and len(offsets) == 4 for offsets in drawn)
    assert {offset for offsets in drawn for offset in offsets} == set(window.offsets)
    assert len(drawn) == 6 * 3  # every choice of 2 of 4 and 1 of 3


def test_temporal_dropout_of_everything_and_of_nothing():
    window = Window(past=2, future=1)

    assert TemporalDropout(0, 0).offsets(window, clip_generator(0, ClipDraw(0, 0))) == (0,)
    assert (
        TemporalDropout(2, 1).offsets(window, clip_generator(0, ClipDraw(0, 0))) == window.offsets
    )


def test_temporal_dropout_needs_frames_to_choose_from():
    with pytest.raises(ConfigError, match=r"past=2.*more support frames than.*past=1"):
        TemporalDropout(past=2, future=0).check(Window(past=1))
    with pytest.raises(ConfigError, match="0 or more support frames"):
        TemporalDropout(past=-1, future=0)


def test_memory_windows_share_no_frame_with_the_clip():
    window = Window(past=2, future=1, frame_stride=2)
    clip = {10 + offset for offset in window.offsets}

    for draw in range(100):
        references = memory_references(3, 10, 40, window, clip_generator(0, ClipDraw(0, draw)))
        assert references == sorted(set(references))
        assert len(references) == 3
        for reference in references:
            assert not clip & {reference + offset for offset in window.offsets}
            assert 0 <= reference < 40


@pytest.mark.parametrize(("length", "expected"), [(1, {0}), (4, {0, 1, 2, 3})])
def test_memory_windows_of_a_short_video_are_of_its_own_frames(length, expected):
    window = Window(past=4)

    drawn = [
        memory_references(2, 0, length, window, clip_generator(0, ClipDraw(0, n)))
        for n in range(50)
    ]

    assert {position for references in drawn for position in references} == expected


def test_evenly_spaced():
    positions = np.array([0, 1, 2, 3, 5, 8, 9, 10, 12])

    assert evenly_spaced(positions, 3).tolist() == [1, 5, 10]
    assert evenly_spaced(positions, 1).tolist() == [5]
    assert evenly_spaced(positions, 9).tolist() == positions.tolist()
    assert evenly_spaced(positions, 20).tolist() == positions.tolist()
    assert evenly_spaced(positions, None).tolist() == positions.tolist()


def test_only_annotated_frames_are_reference_frames():
    starts = np.array([0, 4, 5, 9])
    annotated = np.array([1, 1, 0, 1, 0, 1, 1, 1, 1], bool)

    assert reference_frames(starts, annotated).tolist() == [0, 1, 3, 5, 6, 7, 8]
    assert reference_frames(starts, annotated, clips_per_video=2).tolist() == [0, 3, 6, 8]


def test_a_draw_depends_on_seed_epoch_clip_and_repeat():
    def first(seed: int, *draw: int) -> int:
        return int(clip_generator(seed, ClipDraw(*draw)).integers(2**60))

    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0, 1)]

    assert len({first(*key) for key in keys}) == 5
    assert first(0, 1, 0) == first(0, 1, 0, 0)
