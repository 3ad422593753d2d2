from __future__ import annotations

import pytest
import torch

from vodet.data.clips.collate import collate_clips
from vodet.structures import Clip, ClipLayout, FrameInfo, Target

WINDOW = ClipLayout.of_window(2, reference=1)


def clip(height, width, value, layout=WINDOW):
    target = Target(
        boxes=torch.full((1, 4), float(value)),
        labels=torch.tensor([value]),
        track_ids=torch.tensor([0]),
        iscrowd=torch.tensor([False]),
    )
    return Clip(
        frames=torch.full((2, 3, height, width), value, dtype=torch.uint8),
        infos=tuple(
            FrameInfo(str(value), number, number, (height, width), (height, width))
            for number in range(2)
        ),
        targets=(target, target),
        layout=layout,
    )


@pytest.mark.parametrize(
    ("divisor", "size"), [(1, (20, 33)), (8, (24, 40)), (32, (32, 64)), (20, (20, 40))]
)
def test_padding_is_black_at_the_right_and_the_bottom(divisor, size):
    batch = collate_clips([clip(20, 30, 5), clip(16, 33, 9)], size_divisor=divisor)

    assert batch.frames.shape == (2, 2, 3, *size)
    assert batch.frames.dtype == torch.uint8
    for frames, height, width, value in zip(batch.frames, (20, 16), (30, 33), (5, 9), strict=True):
        assert (frames[..., :height, :width] == value).all()
        assert frames.sum() == 2 * 3 * height * width * value


def test_what_belongs_to_a_clip_stays_with_it():
    batch = collate_clips([clip(8, 8, 5), clip(8, 8, 9), clip(8, 8, 2)])

    assert batch.layout == WINDOW
    assert [infos[1].video for infos in batch.infos] == ["5", "9", "2"]
    assert [clip[1]["labels"].tolist() for clip in batch.targets] == [[5], [9], [2]]
    assert [info.frame_number for info in batch.reference_infos] == [1, 1, 1]


def test_further_windows_are_further_frames_in_the_same_order():
    layout = ClipLayout(((0,),), 0, 0, history=((1,),))
    clips = [clip(8, 8, value, layout) for value in (10, 20)]
    for own in clips:
        own.frames[1] += 1

    batch = collate_clips(clips, size_divisor=16)

    assert batch.layout == layout
    assert batch.frames[:, :, 0, 0, 0].tolist() == [[10, 11], [20, 21]]
    assert batch.frames.shape == (2, 2, 3, 16, 16)
    assert [info.frame_number for info in batch.reference_infos] == [0, 0]
