from __future__ import annotations

import pytest
import torch

from vodet.data.clips.collate import collate_clips
from vodet.structures import Clip, FrameInfo, Target


def clip(height, width, value, memory_windows=()):
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
        reference=1,
        memory_windows=memory_windows,
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

    assert batch.reference == 1
    assert [infos[1].video for infos in batch.infos] == ["5", "9", "2"]
    assert [clip[batch.reference]["labels"].tolist() for clip in batch.targets] == [[5], [9], [2]]
    assert [info.frame_number for info in batch.reference_infos] == [1, 1, 1]
    assert batch.memory_windows == ()


def test_memory_windows_are_batches_in_the_same_order():
    clips = [
        clip(8, 8, value, (clip(8, 8, value + 1), clip(8, 8, value + 2))) for value in (10, 20)
    ]

    batch = collate_clips(clips, size_divisor=16)

    assert [window.frames[:, 0, 0, 0, 0].tolist() for window in batch.memory_windows] == [
        [11, 21],
        [12, 22],
    ]
    assert batch.memory_windows[0].frames.shape == (2, 2, 3, 16, 16)
