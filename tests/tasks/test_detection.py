from __future__ import annotations

from functools import partial

import lightning as L
import pytest
import torch
from torch.optim import SGD
from torch.utils.data import DataLoader

from tiny import frame_info, random_frames, tiny_detector
from vodet.errors import ConfigError, TrainingError
from vodet.fusion.none import NoFusion
from vodet.structures import ClipBatch, ClipLayout, Target, Window
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.optimizer import GroupedOptimizer


def batch() -> ClipBatch:
    target = Target(
        boxes=torch.tensor([[4.0, 8, 40, 48]]),
        labels=torch.tensor([1]),
        track_ids=torch.tensor([0]),
        iscrowd=torch.tensor([False]),
    )
    return ClipBatch(
        frames=random_frames(2)[:, None],
        infos=((frame_info("street", 3),), (frame_info("park", 8),)),
        targets=((target,), (target,)),
        layout=ClipLayout.of_window(1, reference=0),
    )


def fit(task: VideoDetectionTask) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", max_steps=1, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = DataLoader([batch()], batch_size=None)
    trainer.fit(task.train(), loader, loader)
    return trainer


def test_the_loss_is_the_sum_of_its_terms() -> None:
    trainer = fit(VideoDetectionTask(tiny_detector(NoFusion, Window()), optimizer=SGD))
    logged = trainer.callback_metrics
    names = {"train/loss_heatmap", "train/loss_size", "train/loss_offset"}
    assert names | {"train/loss", "lr/0"} == set(logged)
    torch.testing.assert_close(logged["train/loss"], torch.stack([logged[n] for n in names]).sum())


def test_a_loss_that_is_not_finite_stops_and_names_the_clips() -> None:
    detector = tiny_detector(NoFusion, Window())
    with torch.no_grad():
        detector.head.size.out.bias.fill_(float("nan"))
    with pytest.raises(TrainingError) as caught:
        fit(VideoDetectionTask(detector, optimizer=SGD))
    first, *clips = str(caught.value).splitlines()
    assert first.startswith("The loss is not finite at step 0: heatmap ")
    assert "size nan" in first
    assert "Lower the learning rate" in first
    assert clips == [
        "  video 'street' frame 3 (image id 3)",
        "  video 'park' frame 8 (image id 8)",
    ]


def test_training_needs_an_optimizer_that_can_be_built() -> None:
    detector = tiny_detector(NoFusion, Window())
    with pytest.raises(TrainingError, match=r"VideoDetectionTask\(detector, optimizer=\.\.\.\)"):
        fit(VideoDetectionTask(detector))
    with pytest.raises(ConfigError, match=r"The optimizer cannot be built: .*momentun"):
        fit(VideoDetectionTask(detector, optimizer=partial(SGD, momentun=0.9)))
    everything_frozen = detector.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"cannot be built: .* no parameter|empty parameter list"):
        fit(VideoDetectionTask(everything_frozen, optimizer=GroupedOptimizer(SGD)))
