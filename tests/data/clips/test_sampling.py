from __future__ import annotations

import numpy as np
import pytest

from vodet.data.clips.sampling import (
    ClipDraw,
    ClipSampling,
    History,
    TemporalDropout,
    clip_generator,
    evenly_spaced,
    reference_frames,
    references_before,
    references_elsewhere,
)
from vodet.errors import ConfigError
from vodet.structures import ClipLayout, Window


def test_window_inside_a_video():
    assert Window(past=2, future=1, frame_stride=3).positions(10, 100) == [4, 7, 10, 13]


def test_borders_repeat_the_nearest_frame():
    window = Window(past=2, future=2)

    assert window.positions(0, 3) == [0, 0, 0, 1, 2]
    assert window.positions(2, 3) == [0, 1, 2, 2, 2]


def test_a_still_image_is_a_video_of_one_frame():
    assert Window(past=1, future=2, frame_stride=5).positions(0, 1) == [0] * 4


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
    with pytest.raises(ConfigError, match="found past=-1, future=0"):
        TemporalDropout(past=-1, future=0)


def test_windows_elsewhere_share_no_frame_with_the_clip():
    window = Window(past=2, future=1, frame_stride=2)
    clip = {10 + offset for offset in window.offsets}

    for draw in range(100):
        references = references_elsewhere(3, 10, 40, window, clip_generator(0, ClipDraw(0, draw)))
        assert references == sorted(set(references))
        assert len(references) == 3
        for reference in references:
            assert not clip & {reference + offset for offset in window.offsets}
            assert 0 <= reference < 40


@pytest.mark.parametrize(("length", "expected"), [(1, {0}), (4, {0, 1, 2, 3})])
def test_windows_elsewhere_in_a_short_video_are_of_its_own_frames(length, expected):
    window = Window(past=4)

    drawn = [
        references_elsewhere(2, 0, length, window, clip_generator(0, ClipDraw(0, n)))
        for n in range(50)
    ]

    assert {position for references in drawn for position in references} == expected


def test_earlier_windows_are_of_equal_parts_of_what_came_before():
    generators = [clip_generator(0, ClipDraw(0, n)) for n in range(199)]
    drawn = np.array([references_before(4, 40, one) for one in generators])

    for part, places in enumerate(drawn.T):
        assert set(places.tolist()) == set(range(10 * part, 10 * part + 10))


@pytest.mark.parametrize(
    ("reference", "expected"), [(0, {(0, 0)}), (1, {(0, 0)}), (3, {(0, 1), (0, 2), (1, 1), (1, 2)})]
)
def test_earlier_windows_of_the_first_frames(reference, expected):
    generators = [clip_generator(0, ClipDraw(0, n)) for n in range(99)]

    assert {tuple(references_before(2, reference, one)) for one in generators} == expected


def test_the_clip_is_followed_by_its_earlier_windows():
    sampling = ClipSampling(Window(past=1), History(2, "earlier"))

    assert sampling.layout == ClipLayout(((0, 1),), 1, 1, history=((2, 3), (4, 5)))
    for clip in range(50):
        (own,), (first, second) = windows_of(sampling, 10, 20, clip)
        assert own == [9, 10]
        assert first == [max(first[1] - 1, 0), first[1]]
        assert 0 <= first[1] < 5 <= second[1] < 10


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


@pytest.mark.parametrize(
    "sampling",
    [
        ClipSampling(Window(2, 1, frame_stride=2)),
        ClipSampling(Window(2, 1), temporal_dropout=TemporalDropout(1, 0)),
        ClipSampling(Window(1, 1), History(1)),
        ClipSampling(Window(1, 1, frame_stride=2), History(2, "previous")),
    ],
)
@pytest.mark.parametrize("reference", [0, 7, 11])
def test_the_reach_is_all_that_can_be_drawn(sampling, reference):
    draws = [sampling.draw(reference, 12, np.random.default_rng(seed)) for seed in range(100)]
    drawn = set().union(*draws)
    if sampling.history.policy == "anywhere" and sampling.history.windows:
        drawn |= set(range(12))  # windows that touch the clip's own are not drawn
    assert set(sampling.reach(reference, 12)) == drawn


def test_a_draw_depends_on_seed_epoch_clip_and_repeat():
    def first(seed: int, *draw: int) -> int:
        return int(clip_generator(seed, ClipDraw(*draw)).integers(2**60))

    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0, 1)]

    assert len({first(*key) for key in keys}) == 5
    assert first(0, 1, 0) == first(0, 1, 0, 0)


def drawn(sampling, reference, length, clip=0):
    return sampling.draw(reference, length, clip_generator(0, ClipDraw(0, clip)))


def windows_of(sampling, reference, length, clip=0, unused=()):
    """The positions, in their video, of the windows that are trained on and of the history.

    Every frame is in one of them, except for those at the places in ``unused``.
    """
    frames, layout = drawn(sampling, reference, length, clip), sampling.layout
    assert frames[layout.reference_frame] == reference
    used = {place for window in (*layout.windows, *layout.history) for place in window}
    assert used == set(range(len(frames))) - set(unused)
    assert all(layout.reference_frame == w[layout.reference] for w in [layout.reference_window])
    return tuple(
        [[frames[place] for place in window] for window in windows]
        for windows in (layout.windows, layout.history)
    )


def test_a_clip_is_a_window():
    sampling = ClipSampling(Window(past=1, future=2, frame_stride=2))

    assert sampling.layout == ClipLayout.of_window(4, 1)
    assert drawn(sampling, 10, 20) == [8, 10, 12, 14]
    assert drawn(sampling, 1, 4) == [0, 1, 3, 3]


def test_previous_windows_of_one_frame():
    sampling = ClipSampling(Window(), History(3, "previous"))

    assert sampling.layout == ClipLayout(((3,),), 0, 3, history=((0,), (1,), (2,)))
    assert drawn(sampling, 10, 20) == [7, 8, 9, 10]
    assert drawn(sampling, 1, 20) == [0, 0, 0, 1]


def test_previous_windows_with_a_past_frame_share_frames():
    sampling = ClipSampling(Window(past=1), History(2, "previous"))

    assert sampling.layout == ClipLayout(((2, 3),), 1, 3, history=((0, 1), (1, 2)))
    assert drawn(sampling, 10, 20) == [7, 8, 9, 10]
    assert windows_of(sampling, 10, 20) == ([[9, 10]], [[7, 8], [8, 9]])


def test_previous_windows_with_a_frame_stride():
    sampling = ClipSampling(Window(past=1, frame_stride=2), History(2, "previous"))

    assert drawn(sampling, 10, 20) == [6, 7, 8, 9, 10]
    assert sampling.layout == ClipLayout(((2, 4),), 1, 4, history=((0, 2), (1, 3)))
    assert windows_of(sampling, 10, 20) == ([[8, 10]], [[6, 8], [7, 9]])
    # Also with frames between that no window needs: frame 8 is in no window.
    sampling = ClipSampling(Window(past=1, frame_stride=3), History(1, "previous"))
    assert drawn(sampling, 10, 20) == [6, 7, 8, 9, 10]
    assert sampling.layout == ClipLayout(((1, 4),), 1, 4, history=((0, 3),))
    assert windows_of(sampling, 10, 20, unused=[2]) == ([[7, 10]], [[6, 9]])


def test_previous_windows_with_a_frame_stride_look_ahead():
    window = Window(past=1, future=1, frame_stride=2)
    sampling = ClipSampling(window, History(1, "previous"))

    assert drawn(sampling, 10, 20) == [7, 8, 9, 10, 11, 12]
    assert sampling.layout == ClipLayout(((1, 3, 5),), 1, 3, history=((0, 2, 4),))
    assert windows_of(sampling, 10, 20) == ([[8, 10, 12]], [[7, 9, 11]])


def test_previous_windows_look_ahead():
    sampling = ClipSampling(Window(past=1, future=1), History(1, "previous"))

    assert sampling.layout == ClipLayout(((1, 2, 3),), 1, 2, history=((0, 1, 2),))
    assert drawn(sampling, 10, 20) == [8, 9, 10, 11]
    assert drawn(sampling, 19, 20) == [17, 18, 19, 19]


def test_windows_elsewhere_follow_that_of_the_clip():
    sampling = ClipSampling(Window(past=1), History(2, "anywhere"))

    assert sampling.layout == ClipLayout(((0, 1),), 1, 1, history=((2, 3), (4, 5)))
    for clip in range(50):
        (own,), (first, second) = windows_of(sampling, 10, 20, clip)
        assert own == [9, 10]
        assert first[1] < second[1]
        for window in (first, second):
            assert window == [max(window[1] - 1, 0), window[1]]
            assert not set(window) & {9, 10}


def test_windows_elsewhere_have_a_temporal_dropout_of_their_own():
    window, dropout = Window(past=5), TemporalDropout(past=1, future=0)
    sampling = ClipSampling(window, History(1, "anywhere"), dropout)

    assert sampling.layout == ClipLayout(((0, 1),), 1, 1, history=((2, 3),))
    drops = []
    for clip in range(200):
        (own,), (other,) = windows_of(sampling, 50, 100, clip)
        assert own[1] == 50
        assert abs(other[1] - 50) > 5
        drops.append((own[0] - own[1], other[0] - other[1] if other[1] >= 5 else None))
    assert {own for own, _ in drops} == {-5, -4, -3, -2, -1}
    assert any(own != other for own, other in drops if other is not None)


def test_losses_on_all_frames_of_a_window():
    sampling = ClipSampling(Window(past=2, future=1), losses_on="all")

    assert sampling.layout.windows == ((0, 0, 0, 1), (0, 0, 1, 2), (0, 1, 2, 3), (1, 2, 3, 3))
    assert (sampling.layout.reference, sampling.layout.reference_frame) == (2, 2)
    assert sampling.layout.history == ()
    assert drawn(sampling, 10, 20) == [8, 9, 10, 11]
    trained, _ = windows_of(sampling, 10, 20)
    assert [window[2] for window in trained] == [8, 9, 10, 11]
    assert trained[3] == [9, 10, 11, 11]


def test_losses_on_all_frames_with_a_frame_stride_count_the_clip_as_a_video():
    sampling = ClipSampling(Window(past=1, frame_stride=2), losses_on="all")

    assert sampling.layout == ClipLayout(((0, 0), (0, 1)), 1, 1)
    assert windows_of(sampling, 10, 20) == ([[8, 8], [8, 10]], [])


def test_losses_on_all_frames_after_a_temporal_dropout():
    sampling = ClipSampling(
        Window(past=4, future=3), History(1), TemporalDropout(past=2, future=0), losses_on="all"
    )

    assert sampling.layout.windows == ((0, 0, 0), (0, 0, 1), (0, 1, 2))
    assert sampling.layout.history == ((3, 4, 5),)
    frames = drawn(sampling, 10, 20)
    assert len(frames) == 6
    assert frames[2] == 10


def test_losses_on_all_frames_of_previous_windows():
    sampling = ClipSampling(Window(), History(3, "previous"), losses_on="all")

    assert sampling.layout == ClipLayout(((0,), (1,), (2,), (3,)), 0, 3)
    sampling = ClipSampling(Window(past=1), History(2, "previous"), losses_on="all")
    assert windows_of(sampling, 10, 20) == ([[7, 7], [7, 8], [8, 9], [9, 10]], [])
    sampling = ClipSampling(Window(past=1, frame_stride=2), History(1, "previous"), losses_on="all")
    assert drawn(sampling, 10, 20) == [7, 8, 9, 10] == drawn(sampling, 10, 11)
    assert windows_of(sampling, 10, 20) == ([[7, 7], [7, 8], [7, 9], [8, 10]], [])


def test_previous_windows_need_all_frames():
    with pytest.raises(ConfigError, match=r"temporal_dropout leaves out frames.*policy=previous"):
        ClipSampling(Window(past=3), History(1, "previous"), TemporalDropout(past=1, future=0))
    ClipSampling(Window(past=3), History(0, "previous"), TemporalDropout(past=1, future=0))
    ClipSampling(Window(past=3), History(1, "anywhere"), TemporalDropout(past=1, future=0))


def test_a_dropout_that_does_not_fit_the_window():
    with pytest.raises(ConfigError, match="more support frames"):
        ClipSampling(Window(past=1), temporal_dropout=TemporalDropout(past=2, future=0))


def test_unknown_options():
    with pytest.raises(ConfigError, match=r"losses_on: expected reference or all; found 'every'"):
        ClipSampling(Window(), losses_on="every")
    with pytest.raises(
        ConfigError, match=r"previous, anywhere, earlier; found windows=2, policy='later'"
    ):
        History(2, "later")
    with pytest.raises(ConfigError, match=r"windows >= 0 .* found windows=-1"):
        History(-1)


def test_what_is_drawn_depends_on_the_generator_alone():
    sampling = ClipSampling(Window(past=3), History(2), TemporalDropout(past=1, future=0))

    assert drawn(sampling, 10, 40, clip=3) == drawn(sampling, 10, 40, clip=3)
    assert len({tuple(drawn(sampling, 10, 40, clip)) for clip in range(20)}) > 10
