from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tiny import frame_info, random_frames, tiny_detector
from vodet.encodings import TemporalMemory, Windows
from vodet.errors import ConfigError
from vodet.fusion.mean import MeanFusion
from vodet.structures import ClipBatch, Target, Window


@pytest.mark.parametrize("class_names", [(), ("car", "dog", "car")])
def test_class_names_are_distinct(class_names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="needs distinct class names, found "):
        tiny_detector(MeanFusion, Window(), class_names)


@torch.inference_mode()
def test_frames_are_padded_with_black_at_the_right_and_the_bottom() -> None:
    detector = tiny_detector(MeanFusion, Window())
    frames = random_frames(2, size=(50, 70))
    padded = F.pad(frames, (0, 96 - 70, 0, 64 - 50))

    found, expected = detector.encode(frames), detector.encode(padded)

    assert detector.backbone.size_divisor == 32
    assert [tuple(level.shape) for level in found.maps.levels] == [(2, 8, 16, 24), (2, 8, 8, 12)]
    torch.testing.assert_close(found.maps.levels, expected.maps.levels, rtol=0, atol=0)
    assert found.sizes.tolist() == [[50, 70]] * 2


@torch.inference_mode()
def test_step_answers_for_the_reference_frame_and_returns_new_memories() -> None:
    detector = tiny_detector(MeanFusion, Window(past=1))
    encodings = detector.encode(random_frames(4))
    windows = Windows.of_clips(encodings, length=2, reference=1)
    memories = [TemporalMemory(), TemporalMemory(answered=5)]

    predictions, after = detector.step(windows, memories)

    assert after == [TemporalMemory(answered=1), TemporalMemory(answered=6)]
    assert {len(prediction) for prediction in predictions.values()} == {2}
    mean = windows.maps.map(lambda level: level.mean(dim=1))
    torch.testing.assert_close(predictions, detector.head.predict(mean))


def clip_batch(original_size: tuple[int, int] = (64, 64)) -> ClipBatch:
    info = frame_info(size=original_size)
    info = type(info)(**{**vars(info), "size": (64, 64)})
    target = Target(
        boxes=torch.tensor([[4.0, 8, 40, 48]]),
        labels=torch.tensor([1]),
        track_ids=torch.tensor([0]),
        iscrowd=torch.tensor([False]),
    )
    return ClipBatch(random_frames(2)[None], ((info, info),), ((target, target),), reference=1)


def test_losses_have_names_and_reach_every_weight() -> None:
    detector = tiny_detector(MeanFusion, Window(past=1)).train()
    losses = detector.losses(clip_batch())
    assert set(losses) == {"heatmap", "size", "offset"}
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, weight in detector.named_parameters() if weight.grad is None] == []


@torch.inference_mode()
def test_detections_are_in_original_pixels() -> None:
    detector = tiny_detector(MeanFusion, Window(past=1))
    (found,) = detector(clip_batch())
    (larger,) = detector(clip_batch(original_size=(128, 192)))
    assert len(found["scores"]) > 0
    torch.testing.assert_close(larger["boxes"], found["boxes"] * torch.tensor([3.0, 2, 3, 2]))
    torch.testing.assert_close(larger["scores"], found["scores"])
